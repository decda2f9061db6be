"""As Django sends: its SMTP backend, with the settings of a project."""

import json
import sys

import django
from django.conf import settings
from django.core.mail import EmailMultiAlternatives

ask = json.loads(sys.argv[1])
settings.configure(
    EMAIL_HOST=ask["host"],
    EMAIL_PORT=ask["port"],
    EMAIL_HOST_USER=ask["user"],
    EMAIL_HOST_PASSWORD=ask["password"],
    EMAIL_USE_TLS=ask["tls"] == "starttls",
    EMAIL_USE_SSL=ask["tls"] == "implicit",
)
django.setup()
mail = EmailMultiAlternatives("Grüße №1", "Grüße", "Acme Bücher <shop@acme.example>", [ask["to"]])
mail.attach_alternative("<p>Grüße</p>", "text/html")
mail.send()
