# As Rails and GitLab send: the mail gem with the settings that ActionMailer hands to it.
require 'json'
require 'mail'

ask = JSON.parse(ARGV[0])
Mail.defaults do
  settings = {
    address: ask['host'], port: ask['port'], user_name: ask['user'], password: ask['password'],
    authentication: :plain, ca_file: ask['ca'], openssl_verify_mode: 'peer'
  }
  settings[ask['tls'] == 'implicit' ? :tls : :enable_starttls] = true
  delivery_method :smtp, settings
end
Mail.deliver do
  charset = 'UTF-8'
  from    'Acme Bücher <shop@acme.example>'
  to      ask['to']
  subject 'Grüße №1'
  text_part { content_type 'text/plain; charset=UTF-8'; body 'Grüße' }
  html_part { content_type 'text/html; charset=UTF-8'; body '<p>Grüße</p>' }
end
