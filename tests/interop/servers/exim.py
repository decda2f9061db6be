"""Exim, unpacked from its package and run from a private configuration, delivering into a maildir.

It runs without root's rights: its binary is a copy that is not set-uid, and the user that receives also delivers.
"""

from __future__ import annotations

import pwd
import shutil

from tests.interop.programs import UNPACKED
from tests.interop.servers.base import DOMAIN, PASSWORD, SMALL, USER, Server

OWNER = "Debian-exim"

_CONFIG = """\
primary_hostname = exim.example.com
exim_path = {folder}/exim
spool_directory = {folder}/spool
log_file_path = {folder}/%s-log
pid_file_path = {folder}/pid
exim_user = {owner}
exim_group = {owner}
never_users =
deliver_drop_privilege = true
local_interfaces = 127.0.0.1
daemon_smtp_ports = {ports}
tls_on_connect_ports = {submissions}
tls_advertise_hosts = *
tls_certificate = {chain}
tls_privatekey = {key}
auth_advertise_hosts = ${{if def:tls_in_cipher {{*}}{{}}}}
smtputf8_advertise_hosts = *
dsn_advertise_hosts = *
pipelining_advertise_hosts = *
chunking_advertise_hosts =
host_lookup =
rfc1413_hosts =
dns_ipv4_lookup =
smtp_accept_max = 100
smtp_accept_max_per_host = 100
smtp_accept_queue = 0
smtp_accept_queue_per_connection = 0
queue_only_load = 1000
message_size_limit = ${{if eq{{$received_port}}{{{small}}} {{{bound}}}{{30000000}}}}
bounce_return_linesize_limit = 20000
domainlist ours = {domain} : acme.example
acl_smtp_rcpt = rcpt
acl_smtp_data = accept
trusted_users = {owner}
timezone = UTC

begin acl
rcpt:
  deny    condition = ${{if inlist{{$received_port}}{{{submission}:{submissions}}}}}
          !authenticated = *
          message = 5.7.0 log in first
  require domains = +ours
          message = relay not permitted
  deny    local_parts = ^unknown
          message = 5.1.1 no such mailbox
  accept

begin routers
all:
  driver = accept
  transport = mailbox

begin transports
mailbox:
  driver = appendfile
  directory = {folder}/mailbox
  maildir_format
  create_directory = false
  envelope_to_add
  return_path_add
  user = {owner}
  group = {owner}

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if and{{{{eq{{$auth2}}{{{user}}}}}{{eq{{$auth3}}{{{password}}}}}}}}}
  server_set_id = $auth2
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = Username:: : Password::
  server_condition = ${{if and{{{{eq{{$auth1}}{{{user}}}}}{{eq{{$auth2}}{{{password}}}}}}}}}
  server_set_id = $auth1
cram:
  driver = cram_md5
  public_name = CRAM-MD5
  server_secret = ${{if eq{{$auth1}}{{{user}}}{{{password}}}fail}}
  server_set_id = $auth1
"""


class Exim(Server):
    DOORS = ("plain", "submission", "submissions", "small")
    OFFERS = frozenset({"SIZE", "8BITMIME", "SMTPUTF8", "DSN", "PIPELINING"})
    MECHANISMS = ("plain", "login", "cram-md5")
    DELIVERED = "Envelope-to"

    def start(self) -> None:
        user = pwd.getpwnam(OWNER)
        for name in ("mailbox", "mailbox/new", "mailbox/tmp", "mailbox/cur", "spool"):
            (self.folder / name).mkdir()
            shutil.chown(self.folder / name, user.pw_uid, user.pw_gid)
        shutil.chown(self.folder, user.pw_uid)
        # Copies: the originals may lie below a folder that this user cannot enter.
        program, key, chain = (self.folder / name for name in ("exim", "key.pem", "chain.pem"))
        shutil.copyfile(UNPACKED / "usr/sbin/exim4", program)
        program.chmod(0o755)
        shutil.copyfile(self.certificates.chain, chain)
        shutil.copyfile(self.certificates.key, key)
        key.chmod(0o600)
        shutil.chown(key, user.pw_uid)
        config = self.folder / "config"
        config.write_text(
            _CONFIG.format(
                folder=self.folder,
                owner=OWNER,
                ports=" : ".join(map(str, self.ports.values())),
                submission=self.ports["submission"],
                submissions=self.ports["submissions"],
                small=self.ports["small"],
                bound=SMALL,
                chain=chain,
                key=key,
                domain=DOMAIN,
                user=USER,
                password=PASSWORD,
            )
        )
        self.launch([program, "-C", config, "-bdf", "-q10m"])
