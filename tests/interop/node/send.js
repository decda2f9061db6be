// Sends one message with nodemailer: node send.js '{"transport": {…}, "mail": {…}, "raw": "path", "ca": "path"}'
// `raw`: file with the finished message; without it `mail` is composed by nodemailer. Prints the server's answer.
'use strict';
const fs = require('fs');
const nodemailer = require(`${process.env.NODE_MODULES}/nodemailer`);

const task = JSON.parse(process.argv[2]);
const transport = { ...task.transport, logger: false };
if (task.ca) {
    transport.tls = { ca: fs.readFileSync(task.ca) };
}
const mail = { ...task.mail };
if (task.raw) {
    mail.raw = fs.readFileSync(task.raw);
}
nodemailer
    .createTransport(transport)
    .sendMail(mail)
    .then(
        info => console.log(info.response),
        error => {
            console.error(error);
            process.exit(1);
        }
    );
