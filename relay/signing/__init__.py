"""DKIM: keys, signatures, and whether DNS publishes them."""

from relay.signing.keys import SigningKey, dns_record, keygen, load_key, parse_key
from relay.signing.offload import sign_async
from relay.signing.signer import Signer, Style

__all__ = ["Signer", "SigningKey", "Style", "dns_record", "keygen", "load_key", "parse_key", "sign_async"]
