// A mail server on several ports with smtp-server: node serve.js '{"folder": …, "ports": {"plain": …}, …}'
'use strict';
const fs = require('fs');
const path = require('path');
const { SMTPServer } = require(`${process.env.NODE_MODULES}/smtp-server`);

const task = JSON.parse(process.argv[2]);
const cert = fs.readFileSync(task.cert);
const key = fs.readFileSync(task.key);
let count = 0;

function refusal(code, text) {
    return Object.assign(new Error(text), { responseCode: code });
}

const common = {
    name: 'node.example.com',
    cert,
    key,
    disableReverseLookup: true,
    logger: false,
    closeTimeout: 1000,
    onRcptTo(address, session, callback) {
        const [, name, domain] = /^(.*)@(.*)$/.exec(address.address);
        if (!task.domains.includes(domain)) {
            return callback(refusal(554, '5.7.1 relaying denied'));
        }
        callback(name.startsWith('unknown') ? refusal(550, '5.1.1 no such mailbox') : null);
    },
    onAuth(auth, session, callback) {
        const known = auth.username === task.user;
        const right = auth.method === 'CRAM-MD5' ? auth.validatePassword(task.password) : auth.password === task.password;
        callback(known && right ? null : refusal(535, '5.7.8 no'), { user: auth.username });
    },
    onData(stream, session, callback) {
        const pieces = [];
        stream.on('data', piece => pieces.push(piece));
        stream.on('end', () => {
            if (stream.sizeExceeded) {
                return callback(refusal(552, '5.3.4 too large'));
            }
            const content = Buffer.from(Buffer.concat(pieces).toString('latin1').replace(/\r\n/g, '\n'), 'latin1');
            const protocol = `ESMTP${session.secure ? 'S' : ''}${session.user ? 'A' : ''}`;
            for (const { address } of session.envelope.rcptTo) {
                const name = `${++count}`;
                const top =
                    `Return-Path: <${session.envelope.mailFrom.address || ''}>\n` +
                    `Delivered-To: ${address}\nReceived: by here with ${protocol}\n`;
                fs.writeFileSync(path.join(task.folder, name), Buffer.concat([Buffer.from(top), content]));
                fs.renameSync(path.join(task.folder, name), path.join(task.folder, 'new', name));
            }
            callback(null, '2.0.0 Ok');
        });
    }
};
const open = { disabledCommands: ['STARTTLS', 'AUTH'], authOptional: true };
const login = { authMethods: ['PLAIN', 'LOGIN', 'CRAM-MD5'] };
const options = {
    plain: { ...open, size: 30000000 },
    submission: { ...login },
    submissions: { ...login, secure: true },
    small: { ...open, size: task.small }
};
for (const [door, port] of Object.entries(task.ports)) {
    const server = new SMTPServer({ ...common, ...options[door] });
    server.on('error', error => console.error(door, error.message));
    server.listen(port, '127.0.0.1');
}
