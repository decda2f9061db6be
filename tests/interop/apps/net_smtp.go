// As programs in Go send that use the standard library: net/smtp, which demands STARTTLS before it logs in.
package main

import (
	"encoding/json"
	"fmt"
	"net/smtp"
	"os"
)

func main() {
	var ask struct {
		Host, User, Password, To string
		Port                     int
	}
	if err := json.Unmarshal([]byte(os.Args[1]), &ask); err != nil {
		panic(err)
	}
	message := "From: shop@acme.example\r\nTo: " + ask.To + "\r\nSubject: =?UTF-8?Q?Gr=C3=BC=C3=9Fe_=E2=84=961?=\r\n" +
		"Content-Type: text/plain; charset=UTF-8\r\n\r\nGrüße\r\n"
	auth := smtp.PlainAuth("", ask.User, ask.Password, ask.Host)
	address := fmt.Sprintf("%s:%d", ask.Host, ask.Port)
	if err := smtp.SendMail(address, auth, "shop@acme.example", []string{ask.To}, []byte(message)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
