"""Postfix, unpacked from its package and run from a private configuration.

The whole way of a message is the real one: smtpd, cleanup, queue manager, virtual delivery into a maildir. Nothing
can leave the machine: there is no transport for other domains, and DNS is off.
"""

from __future__ import annotations

import os
import pwd
import subprocess

from tests.interop.programs import UNPACKED
from tests.interop.servers.base import DOMAIN, PASSWORD, SMALL, USER, Server

OWNER = "daemon"
DELIVERS = "mail"
"""Users and groups that every Debian system has; Postfix wants two different ones that are not root."""

_QUEUE = (
    "active bounce corrupt defer deferred flush hold incoming maildrop pid private public saved trace".split()  # noqa: SIM905
)
_MASTER = """\
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
verify    unix  - - n - 1 verify
proxymap  unix  - - n - - proxymap
error     unix  - - n - - error
retry     unix  - - n - - error
virtual   unix  - n n - - virtual
anvil     unix  - - n - 1 anvil
postlog   unix-dgram n - n - 1 postlogd
"""


class Postfix(Server):
    DOORS = ("plain", "submission", "submissions", "login-only", "small", "old")
    OFFERS = frozenset({"SIZE", "8BITMIME", "SMTPUTF8", "DSN", "PIPELINING"})
    MECHANISMS = ("plain", "login", "cram-md5")

    def start(self) -> None:
        self.config = self.folder / "config"
        mailbox = self.folder / "mailbox"
        for path in (self.config, mailbox, self.folder / "data", self.folder / "queue"):
            path.mkdir()
        for name in _QUEUE:
            (self.folder / "queue" / name).mkdir()
            if name != "pid":
                os.chown(self.folder / "queue" / name, pwd.getpwnam(OWNER).pw_uid, -1)
        os.chown(self.folder / "data", pwd.getpwnam(OWNER).pw_uid, -1)
        os.chown(mailbox, pwd.getpwnam(DELIVERS).pw_uid, -1)
        (self.config / "main.cf").write_text(self._main())
        (self.config / "master.cf").write_text(_MASTER + self._doors())
        (self.config / "mailboxes").write_text("if !/^unknown/\n/./ mailbox/\nendif\n")
        self._passwords()
        libraries = str(UNPACKED / "usr/lib/postfix")
        self.launch(
            [UNPACKED / "usr/lib/postfix/sbin/master", "-d", "-c", self.config],
            MAIL_CONFIG=str(self.config),
            LD_LIBRARY_PATH=libraries,
        )

    def _main(self) -> str:
        user = pwd.getpwnam(DELIVERS)
        settings = {
            "compatibility_level": "3.6",
            "import_environment": "MAIL_CONFIG TZ LANG LD_LIBRARY_PATH",
            "queue_directory": self.folder / "queue",
            "data_directory": self.folder / "data",
            "meta_directory": self.config,
            "daemon_directory": UNPACKED / "usr/lib/postfix/sbin",
            "command_directory": UNPACKED / "usr/sbin",
            "shlib_directory": UNPACKED / "usr/lib/postfix",
            "mail_owner": OWNER,
            "setgid_group": DELIVERS,
            "default_privs": "nobody",
            "maillog_file": self.folder / "postfix.log",
            "maillog_file_prefixes": self.folder,
            "myhostname": "postfix.example.com",
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4",
            "smtpd_relay_restrictions": "reject_unauth_destination",
            "mynetworks": "192.0.2.1/32",  # a login is what allows to relay, not the address
            "mydestination": "",
            "local_transport": "error:no local mail",
            "default_transport": "error:nothing leaves this machine",
            "relay_transport": "error:nothing leaves this machine",
            "disable_dns_lookups": "yes",
            "smtpd_peername_lookup": "no",
            "alias_maps": "",
            "virtual_mailbox_domains": f"{DOMAIN} acme.example",
            "virtual_mailbox_maps": f"regexp:{self.config / 'mailboxes'}",
            "virtual_mailbox_base": self.folder,
            "virtual_mailbox_limit": "0",
            "virtual_minimum_uid": "1",
            "virtual_uid_maps": f"static:{user.pw_uid}",
            "virtual_gid_maps": f"static:{user.pw_gid}",
            "message_size_limit": "30000000",
            "smtputf8_enable": "yes",
            "smtpd_tls_cert_file": self.certificates.chain,
            "smtpd_tls_key_file": self.certificates.key,
            "smtpd_tls_received_header": "yes",
            "smtpd_sasl_authenticated_header": "yes",
            "smtpd_sasl_local_domain": "postfix.example.com",
        }
        return "".join(f"{name} = {value}\n" for name, value in settings.items())

    def _doors(self) -> str:
        logins = "-o smtpd_sasl_auth_enable=yes -o smtpd_relay_restrictions=permit_sasl_authenticated,reject"
        options = {
            "plain": "",
            "submission": f"-o smtpd_tls_security_level=encrypt {logins}",
            "submissions": f"-o smtpd_tls_wrappermode=yes {logins}",
            "login-only": f"-o smtpd_tls_security_level=encrypt -o smtpd_sasl_mechanism_filter=login {logins}",
            "small": f"-o message_size_limit={SMALL}",
            "old": "-o smtpd_discard_ehlo_keywords=8BITMIME,SMTPUTF8,DSN,PIPELINING,SIZE,CHUNKING,ENHANCEDSTATUSCODES",
        }
        return "".join(f"127.0.0.1:{self.ports[d]} inet n - n - - smtpd {o}\n" for d, o in options.items())

    def _passwords(self) -> None:
        database = self.folder / "sasldb"
        subprocess.run(
            [UNPACKED / "usr/sbin/saslpasswd2", "-c", "-p", "-f", database, "-u", "postfix.example.com", USER],
            input=PASSWORD.encode(),
            check=True,
            capture_output=True,
        )
        os.chown(database, pwd.getpwnam(OWNER).pw_uid, -1)
        (self.config / "sasl").mkdir()  # where Debian's build looks
        (self.config / "sasl" / "smtpd.conf").write_text(
            "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nmech_list: PLAIN LOGIN CRAM-MD5\n"
            f"sasldb_path: {database}\n"
        )
