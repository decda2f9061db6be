<?php
// As WordPress sends: PHPMailer over SMTP with a login, STARTTLS demanded, the certificate checked.
require 'libphp-phpmailer/autoload.php';

$ask = json_decode($argv[1], true);
$mail = new PHPMailer\PHPMailer\PHPMailer(true);
$mail->isSMTP();
$mail->Host = $ask['host'];
$mail->Port = $ask['port'];
$mail->SMTPAuth = true;
$mail->Username = $ask['user'];
$mail->Password = $ask['password'];
$mail->SMTPSecure = $ask['tls'] === 'implicit' ? 'ssl' : 'tls';
$mail->SMTPOptions = ['ssl' => ['cafile' => $ask['ca']]];
$mail->CharSet = 'UTF-8';
$mail->setFrom('shop@acme.example', 'Acme Bücher');
$mail->addAddress($ask['to']);
$mail->Subject = 'Grüße №1';
$mail->isHTML(true);
$mail->Body = '<p>Grüße</p>';
$mail->AltBody = 'Grüße';
$mail->send();
