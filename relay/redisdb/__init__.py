"""One way to a Redis or Valkey server, for the shared stores: address, connection, scripts, and what it promises.

`address` says where the server is, `client` makes the library's client for it, `link` is all that stores see: calls of
scripts, gathered, timed and cut off by a `circuit` while the server is away. `promises` looks at what the server keeps
over a crash. Nothing here knows what is stored.
"""
