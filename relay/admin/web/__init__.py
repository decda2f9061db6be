"""Pages for browsers.

They call `relay.admin.api.wiring.Services`, the same service layer as the API, with the `Caller` that the guard found.
A page that changes something sends its session's CSRF token along: scripts as the header `X-CSRF-Token`, plain forms
as the field `csrf_token`, which their handler hands to `guard.check_csrf`. Files below `/static/` need no login.
"""
