"""What vendors' answers mean: recorded and documented answers, one row each, for every class of the fact sheet."""

# ruff: noqa: E501 - a row is a line
from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest

from relay.envelope import Content
from relay.outcome import Outcome, Scope, Status
from relay.upstreams import KINDS, _load
from relay.upstreams.api import COMMON, Answer, Api, Gauge, Letter, Means, asked_s, judge, outcome

NOW = 1_767_225_600.0  # Thu, 01 Jan 2026 00:00:00 GMT
SENT = (Status.DELIVERED, Scope.RECIPIENT)
RECIPIENT = (Status.REFUSED, Scope.RECIPIENT)
MESSAGE = (Status.REFUSED, Scope.MESSAGE)
ACCOUNT = (Status.REFUSED, Scope.ACCOUNT)
QUOTA = (Status.DEFERRED, Scope.QUOTA)
NODE = (Status.DEFERRED, Scope.NODE)
UNCERTAIN = (Status.UNCERTAIN, Scope.MESSAGE)
SENDER, SIZE = "5.7.1", "5.3.4"


class Row(NamedTuple):
    kind: str
    what: str
    status: int
    body: Any
    means: tuple[Status, Scope]
    enhanced: str = ""
    wait_s: float | None = None
    headers: dict[str, str] = {}  # noqa: RUF012


def api(kind: str) -> Api[Any]:
    if kind == "relay":
        from relay.upstreams.relay_bridge import API

        return API
    found: Api[Any] = _load(KINDS[kind].api)
    return found


def answer(status: int, body: Any = b"", **headers: str) -> Answer:
    octets = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, {k.lower().replace("_", "-"): v for k, v in headers.items()}, octets, NOW)


def letter(*recipients: str) -> Letter:
    to = recipients or ("jane@customer.example",)
    return Letter(id="01J0", sender="a@acme.example", recipients=to, content=Content(b"", b""))


def aws(kind: str, message: str = "") -> dict[str, str]:
    return {"message": message, "__type": kind}


def errors(message: str, field: str | None = None) -> dict[str, Any]:
    return {"errors": [{"message": message, "field": field, "help": None}]}


def spark(code: str, message: str = "x", description: str = "") -> dict[str, Any]:
    return {"errors": [{"message": message, "code": code, "description": description}]}


def mj(code: str, message: str, *about: str) -> dict[str, Any]:
    error = {"ErrorIdentifier": "u", "ErrorCode": code, "ErrorMessage": message, "ErrorRelatedTo": list(about)}
    return {"Messages": [{"Status": "error", "Errors": [error]}]}


def two(code: str, error: str) -> dict[str, Any]:
    return {"request_id": "r", "data": {"error_code": code, "error": error}}


def zepto(code: str, sub: str, message: str, target: str = "") -> dict[str, Any]:
    detail = {"code": sub, "message": message, "target": target}
    return {"error": {"code": code, "message": "refused", "details": [detail], "request_id": "z"}}


def graph(code: str, message: str = "refused") -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


def google(reason: str, message: str, status: str = "") -> dict[str, Any]:
    return {"error": {"code": 0, "message": message, "errors": [{"reason": reason}], "status": status}}


ROWS = [
    # Amazon SES
    Row("ses", "sent", 200, {"MessageId": "0102"}, SENT),
    Row("ses", "200 without an id", 200, {}, UNCERTAIN),
    Row("ses", "content", 400, aws("MessageRejected", "Message contains a virus"), MESSAGE),
    Row("ses", "unverified", 400, aws("MessageRejected", "Email address is not verified. a@b"), MESSAGE, SENDER),
    Row("ses", "MAIL FROM domain", 400, aws("MailFromDomainNotVerifiedException", "x"), MESSAGE, SENDER),
    Row("ses", "configuration set", 404, aws("NotFoundException", "Configuration set tx does not exist"), ACCOUNT),
    Row("ses", "suspended", 400, aws("AccountSuspendedException", "Your account was suspended"), ACCOUNT),
    Row("ses", "paused", 400, aws("SendingPausedException", "Sending paused for this account"), ACCOUNT),
    Row("ses", "limit", 400, aws("LimitExceededException", "too many"), QUOTA),
    Row("ses", "rate", 429, aws("TooManyRequestsException", "Maximum sending rate exceeded."), QUOTA),
    Row("ses", "rate under 400", 400, aws("ThrottlingException", "Maximum sending rate exceeded."), QUOTA),
    Row("ses", "day", 400, aws("Throttling", "Daily message quota exceeded."), QUOTA, "", 900.0),
    Row("ses", "key", 403, aws("UnrecognizedClientException", "The security token is invalid"), ACCOUNT),
    Row("ses", "signature", 403, aws("SignatureDoesNotMatch", "does not match"), ACCOUNT),
    Row("ses", "rights", 403, aws("AccessDeniedException", "not authorized to perform ses:SendEmail"), ACCOUNT),
    Row("ses", "expired", 403, aws("com.amazon.coral.service#ExpiredTokenException", "expired"), ACCOUNT),
    Row(
        "ses", "type in the header", 400, {"message": "slow"}, QUOTA, headers={"x-amzn-ErrorType": "ThrottlingException:http://x"}
    ),
    Row("ses", "bad request", 400, aws("BadRequestException", "Missing final '@domain'"), MESSAGE),
    Row("ses", "internal", 500, aws("InternalFailure", "try again"), UNCERTAIN),
    Row("ses", "away", 503, aws("ServiceUnavailable", "try again"), NODE),
    # SendGrid
    Row("sendgrid", "sent", 202, b"", SENT, headers={"X-Message-Id": "sg"}),
    Row("sendgrid", "sandbox mode is no delivery", 200, b"", UNCERTAIN),
    Row("sendgrid", "content", 400, errors("The subject is required", "subject"), MESSAGE),
    Row("sendgrid", "key", 401, errors("The provided authorization grant is invalid, expired, or revoked"), ACCOUNT),
    Row("sendgrid", "credits", 401, errors("Maximum credits exceeded"), QUOTA),
    Row("sendgrid", "rights", 403, errors("access forbidden"), ACCOUNT),
    Row(
        "sendgrid",
        "identity",
        403,
        errors("The from address does not match a verified Sender Identity.", "from"),
        MESSAGE,
        SENDER,
    ),
    Row("sendgrid", "blocked a while", 403, errors("You are temporarily blocked"), QUOTA),
    Row("sendgrid", "path", 404, errors("not found"), ACCOUNT),
    Row("sendgrid", "media type", 415, errors("Content-Type should be application/json"), ACCOUNT),
    Row("sendgrid", "size", 413, errors("payload too large"), MESSAGE, SIZE),
    Row("sendgrid", "rate", 429, errors("too many requests"), QUOTA),
    Row("sendgrid", "500", 500, errors("internal"), UNCERTAIN),
    Row("sendgrid", "503", 503, b"", NODE),
    # Mailgun
    Row("mailgun", "sent", 200, {"id": "<1@mg>", "message": "Queued. Thank you."}, SENT),
    Row("mailgun", "banner on a wrong path", 200, b"Mailgun Magnificent API", ACCOUNT),
    Row("mailgun", "parameter", 400, {"message": "'from' parameter is not a valid address."}, MESSAGE),
    Row("mailgun", "key", 401, b"Forbidden", ACCOUNT),
    Row("mailgun", "billing", 402, {"message": "Payment required"}, ACCOUNT),
    Row("mailgun", "domain", 404, {"message": "Domain not found: mg.acme.example"}, ACCOUNT),
    Row("mailgun", "size", 413, {"message": "Request Entity Too Large"}, MESSAGE, SIZE),
    Row(
        "mailgun",
        "rate in words",
        429,
        {"message": "Domain mg is not allowed to send: recipient limit exceeded, try again after 3541 seconds"},
        QUOTA,
        "",
        3541.0,
    ),
    Row(
        "mailgun",
        "sandbox",
        403,
        {"message": "Domain sandbox is not allowed to send: Free accounts are for test purposes only"},
        ACCOUNT,
    ),
    Row("mailgun", "500", 500, {"message": "Internal Server Error"}, UNCERTAIN),
    # SparkPost
    Row(
        "sparkpost",
        "sent",
        200,
        {"results": {"id": "1", "total_accepted_recipients": 1, "total_rejected_recipients": 0}},
        SENT,
    ),
    Row(
        "sparkpost",
        "200 with the recipient refused",
        200,
        {
            "results": {
                "id": "1",
                "total_accepted_recipients": 0,
                "total_rejected_recipients": 1,
                "rcpt_to_errors": [{"message": "transmission created, but with validation errors", "code": "2000"}],
            }
        },
        RECIPIENT,
    ),
    Row("sparkpost", "domain", 400, spark("7001", "Unconfigured Sending Domain <b>"), MESSAGE, SENDER),
    Row("sparkpost", "content", 422, spark("1300", "invalid data format/type"), MESSAGE),
    Row("sparkpost", "resources", 400, spark("1502", "resources unavailable"), NODE),
    Row("sparkpost", "key", 401, spark("1303", "Unauthorized"), ACCOUNT),
    Row("sparkpost", "rights", 403, spark("1100", "Forbidden"), ACCOUNT),
    Row("sparkpost", "hourly", 420, spark("2102", "Exceed Sending Limit (hourly)"), QUOTA),
    Row("sparkpost", "rate", 429, spark("x", "Too many requests"), QUOTA),
    Row("sparkpost", "away", 503, spark("1900", "Service unavailable"), NODE),
    Row("sparkpost", "500", 500, b"<html>error</html>", UNCERTAIN),
    # Mandrill
    Row("mandrill", "sent", 200, [{"email": "jane@customer.example", "status": "sent", "_id": "m"}], SENT),
    Row(
        "mandrill",
        "held",
        200,
        [{"email": "jane@customer.example", "status": "queued", "_id": "m", "queued_reason": "hourly-quota-exhausted"}],
        SENT,
    ),
    Row(
        "mandrill",
        "200 with a rejection",
        200,
        [{"email": "jane@customer.example", "status": "rejected", "reject_reason": "hard-bounce", "_id": "m"}],
        RECIPIENT,
    ),
    Row("mandrill", "invalid", 200, [{"email": "jane@customer.example", "status": "invalid", "_id": "m"}], RECIPIENT),
    Row(
        "mandrill",
        "domain not signed",
        200,
        [{"email": "jane@customer.example", "status": "rejected", "reject_reason": "unsigned", "_id": "m"}],
        MESSAGE,
        SENDER,
    ),
    Row(
        "mandrill",
        "test mode",
        200,
        [{"email": "jane@customer.example", "status": "rejected", "reject_reason": "test-mode-limit"}],
        QUOTA,
    ),
    Row("mandrill", "200 of somebody else", 200, [{"email": "x@y.example", "status": "sent"}], UNCERTAIN),
    Row("mandrill", "key, old versions", 500, {"status": "error", "name": "Invalid_Key", "message": "Invalid API key"}, ACCOUNT),
    Row("mandrill", "key", 401, {"status": "error", "name": "Invalid_Key", "message": "Invalid API key"}, ACCOUNT),
    Row("mandrill", "payment", 402, {"status": "error", "name": "PaymentRequired", "message": "x"}, ACCOUNT),
    Row("mandrill", "validation", 400, {"status": "error", "name": "ValidationError", "message": "x"}, MESSAGE),
    Row("mandrill", "rate", 429, {"status": "error", "name": "RequestLimitExceeded", "message": "x"}, QUOTA),
    Row("mandrill", "theirs", 500, {"status": "error", "name": "GeneralError", "message": "x"}, UNCERTAIN),
    Row("mandrill", "away", 503, {"status": "error", "name": "ServiceUnavailable", "message": "x"}, NODE),
    # Elastic Email: everything is 400
    Row("elasticemail", "sent", 200, {"TransactionID": "t", "MessageID": "m"}, SENT),
    Row("elasticemail", "key", 400, {"Error": "APIKey Expired"}, ACCOUNT),
    Row("elasticemail", "access", 400, {"Error": "Access Denied."}, ACCOUNT),
    Row("elasticemail", "parameter", 400, {"Error": "Invalid parameter value"}, MESSAGE),
    Row("elasticemail", "sender", 400, {"Error": "From email is not verified"}, MESSAGE, SENDER),
    Row("elasticemail", "plan", 412, {"Error": "Daily limit reached"}, QUOTA),
    Row("elasticemail", "too many", 413, {"Error": "Too many recipients"}, MESSAGE, SIZE),
    Row("elasticemail", "rate", 429, {"Error": "Too many connections"}, QUOTA),
    Row("elasticemail", "path", 404, {"Error": "No such resource"}, ACCOUNT),
    Row("elasticemail", "500", 500, {"Error": "Unexpected", "ErrorData": "ref"}, UNCERTAIN),
    # Mailjet
    Row("mailjet", "sent", 200, {"Messages": [{"Status": "success", "To": [{"Email": "jane@customer.example", "MessageID": 1}]}]}, SENT),
    Row("mailjet", "200 with an error inside", 200, mj("mj-0004", "Type mismatch"), MESSAGE),
    Row("mailjet", "credentials", 401, {"ErrorCode": "mj-0015", "ErrorMessage": "API key authentication failure", "StatusCode": 401}, ACCOUNT),
    Row("mailjet", "suspended", 401, {"ErrorCode": "mj-0001", "ErrorMessage": "Your API key has been suspended"}, ACCOUNT),
    Row("mailjet", "sender", 403, mj("send-0008", '"a@b" is not an authorized sender', "From"), MESSAGE, SENDER),
    Row("mailjet", "address", 400, mj("mj-0013", '"x" is an invalid email address.', "To[0].Email"), RECIPIENT),
    Row("mailjet", "author", 400, mj("mj-0013", '"x" is an invalid email address.', "From.Email"), MESSAGE),
    Row("mailjet", "header", 400, mj("send-0011", "header cannot be customized", "Headers"), MESSAGE),
    Row("mailjet", "rate", 429, {"ErrorMessage": "Too many requests", "StatusCode": 429}, QUOTA),
    Row("mailjet", "500", 500, {"ErrorMessage": "x"}, UNCERTAIN),
    # SMTP2GO
    Row("smtp2go", "sent", 200, {"data": {"succeeded": 1, "failed": 0, "failures": [], "email_id": "1"}}, SENT),
    Row(
        "smtp2go",
        "200 with a failure inside",
        200,
        {"data": {"succeeded": 0, "failed": 1, "failures": ["jane@customer.example: invalid"], "email_id": "1"}},
        RECIPIENT,
    ),
    Row("smtp2go", "rights under 400", 400, two("E_ApiResponseCodes.ENDPOINT_PERMISSION_DENIED", "no permission"), ACCOUNT),
    Row("smtp2go", "payload", 400, two("E_ApiResponseCodes.NON_VALIDATING_IN_PAYLOAD", "An invalid value"), MESSAGE),
    Row("smtp2go", "at top level", 400, {"error_code": "E_ApiResponseCodes.NON_VALIDATING_IN_PAYLOAD", "error": "x"}, MESSAGE),
    Row("smtp2go", "rate", 429, two("E_ApiResponseCodes.REQ_LIMIT_EXCEEDED", "x"), QUOTA, "", 60.0),
    Row("smtp2go", "key", 401, two("", "unauthorised"), ACCOUNT),
    Row("smtp2go", "plan", 402, two("", "payment"), QUOTA),
    Row("smtp2go", "sender", 400, two("E_ApiResponseCodes.API_EXCEPTION", "sender domain not verified"), MESSAGE, SENDER),
    Row("smtp2go", "500", 500, two("E_ApiResponseCodes.API_EXCEPTION", "x"), UNCERTAIN),
    # Brevo
    Row("brevo", "sent", 201, {"messageId": "<1@smtp-relay>"}, SENT),
    Row("brevo", "taken before", 400, {"code": "duplicate_request", "message": "x"}, SENT),
    Row("brevo", "parameter", 400, {"code": "invalid_parameter", "message": "email is not valid in to"}, MESSAGE),
    Row("brevo", "sender", 400, {"code": "invalid_parameter", "message": "Sending has been rejected because the sender you used x is not valid."}, MESSAGE, SENDER),
    Row("brevo", "key", 401, {"code": "unauthorized", "message": "Key not found"}, ACCOUNT),
    Row("brevo", "address of the machine", 401, {"code": "unauthorized", "message": "unrecognised IP address"}, ACCOUNT),
    Row("brevo", "credits", 402, {"code": "not_enough_credits", "message": "x"}, QUOTA),
    Row("brevo", "validation", 403, {"code": "account_under_validation", "message": "x"}, ACCOUNT),
    Row("brevo", "permission", 403, {"code": "permission_denied", "message": "Your account is suspended"}, ACCOUNT),
    Row("brevo", "rate", 429, {"code": "too_many_requests", "message": "x"}, QUOTA, "", 7.0, {"x-sib-ratelimit-reset": "7"}),
    Row("brevo", "unprocessable", 422, {"code": "unprocessable_entity", "message": "x"}, MESSAGE),
    Row("brevo", "500", 500, {"message": "x"}, UNCERTAIN),
    # ZeptoMail: codes, not statuses
    Row("zeptomail", "sent", 201, {"data": [{"code": "EM_104"}], "message": "OK", "request_id": "z"}, SENT),
    Row("zeptomail", "token", 401, zepto("TM_4001", "SERR_157", "Invalid API Token found"), ACCOUNT),
    Row("zeptomail", "domain with 401", 401, zepto("TM_4001", "SM_111", "Sender address domain is not verified"), MESSAGE, SENDER),
    Row("zeptomail", "not approved", 401, zepto("TM_4001", "SM_128", "yet to be reviewed"), ACCOUNT),
    Row("zeptomail", "address", 400, zepto("TM_4001", "SM_113", "Invalid value", "to"), MESSAGE),
    Row("zeptomail", "blocked", 403, zepto("TM_3601", "AE_101", "Account blocked"), ACCOUNT),
    Row("zeptomail", "machine", 403, zepto("TM_3601", "SERR_156", "IP not allowed"), ACCOUNT),
    Row("zeptomail", "trial", 403, zepto("TM_3601", "SM_133", "Trial mail sending limit exceeded"), QUOTA),
    Row("zeptomail", "day", 403, zepto("TM_3601", "SMI_115", "Per day limit exhausted"), QUOTA),
    Row("zeptomail", "credits", 400, zepto("TM_3501", "LE_101", "Credits expired"), QUOTA),
    Row("zeptomail", "exhausted", 400, zepto("TM_5001", "LE_102", "Credits exhausted"), QUOTA),
    Row("zeptomail", "field", 400, zepto("TM_3201", "GE_102", "missing"), MESSAGE),
    Row("zeptomail", "attachment", 400, zepto("TM_8001", "SM_127", "limit"), MESSAGE, SIZE),
    Row("zeptomail", "mime", 400, zepto("TM_3301", "SM_120", "Invalid Mimetype"), MESSAGE),
    Row("zeptomail", "401 without code", 401, b"", ACCOUNT),
    Row("zeptomail", "500", 500, b"", UNCERTAIN),
    # Postmark
    Row("postmark", "sent", 200, {"ErrorCode": 0, "Message": "OK", "MessageID": "p"}, SENT),
    Row("postmark", "200 with an error inside", 200, {"ErrorCode": 406, "Message": "inactive"}, RECIPIENT),
    Row("postmark", "token", 401, {"ErrorCode": 10, "Message": "Bad or missing Server API token."}, ACCOUNT),
    Row("postmark", "request", 422, {"ErrorCode": 300, "Message": "Invalid email request"}, MESSAGE),
    Row("postmark", "signature", 422, {"ErrorCode": 400, "Message": "The 'From' address is not a Sender Signature"}, MESSAGE, SENDER),
    Row("postmark", "not confirmed", 422, {"ErrorCode": 401, "Message": "Sender signature not confirmed"}, MESSAGE, SENDER),
    Row("postmark", "credits", 422, {"ErrorCode": 405, "Message": "Not allowed to send: out of credits"}, QUOTA),
    Row("postmark", "inactive", 422, {"ErrorCode": 406, "Message": "marked inactive"}, RECIPIENT),
    Row("postmark", "attachment type", 422, {"ErrorCode": 411, "Message": "forbidden attachment"}, MESSAGE),
    Row("postmark", "approval", 422, {"ErrorCode": 412, "Message": "pending approval"}, ACCOUNT),
    Row("postmark", "may not send", 422, {"ErrorCode": 413, "Message": "Account may not send"}, ACCOUNT),
    Row("postmark", "maintenance", 503, {"ErrorCode": 100, "Message": "Maintenance"}, NODE),
    Row("postmark", "size", 413, b"", MESSAGE, SIZE),
    Row("postmark", "rate", 429, {"ErrorCode": 429, "Message": "Rate limit exceeded"}, QUOTA),
    Row("postmark", "500", 500, {"ErrorCode": 0, "Message": "x"}, UNCERTAIN),
    # Resend
    Row("resend", "sent", 200, {"id": "r"}, SENT),
    Row("resend", "sent before", 409, {"name": "invalid_idempotent_request", "message": "x"}, SENT),
    Row("resend", "being sent", 409, {"name": "concurrent_idempotent_requests", "message": "x"}, UNCERTAIN),
    Row("resend", "validation", 400, {"name": "validation_error", "message": "x"}, MESSAGE),
    Row("resend", "domain", 403, {"name": "validation_error", "message": "The acme.example domain is not verified."}, MESSAGE, SENDER),
    Row("resend", "no key", 401, {"name": "missing_api_key", "message": "Missing API Key"}, ACCOUNT),
    Row("resend", "bad key", 403, {"name": "invalid_api_key", "message": "API key is invalid"}, ACCOUNT),
    Row("resend", "rate", 429, {"name": "rate_limit_exceeded", "message": "x"}, QUOTA, "", 2.0, {"retry-after": "2"}),
    Row("resend", "day", 429, {"name": "daily_quota_exceeded", "message": "x"}, QUOTA),
    Row("resend", "attachment", 422, {"name": "invalid_attachment", "message": "x"}, MESSAGE),
    Row("resend", "path", 404, {"name": "not_found", "message": "x"}, ACCOUNT),
    Row("resend", "500", 500, {"name": "application_error", "message": "x"}, UNCERTAIN),
    # MailerSend
    Row("mailersend", "sent", 202, b"", SENT, headers={"x-message-id": "m"}),
    Row(
        "mailersend",
        "202 with everybody suppressed",
        202,
        {
            "warnings": [
                {
                    "type": "ALL_SUPPRESSED",
                    "warning": "all suppressed",
                    "recipients": [{"email": "jane@customer.example", "reasons": ["blocklisted"]}],
                }
            ]
        },
        RECIPIENT,
    ),
    Row("mailersend", "token", 401, {"message": "Unauthenticated."}, ACCOUNT),
    Row("mailersend", "scope", 403, {"message": "This action is unauthorized. #MS40301"}, ACCOUNT),
    Row("mailersend", "domain", 422, {"message": "x", "errors": {"from.email": ["domain must be verified #MS42207"]}}, MESSAGE, SENDER),
    Row("mailersend", "quota", 422, {"message": "x", "errors": {"a": ["quota #MS42204"]}}, QUOTA),
    Row("mailersend", "content", 422, {"message": "The subject field is required."}, MESSAGE),
    Row("mailersend", "rate", 429, {"message": "Too Many Attempts. #MS42903"}, QUOTA, "", 30.0, {"retry-after": "30"}),
    Row("mailersend", "day", 429, {"message": "daily #MS42901"}, QUOTA, "", 400.0, {"x-apiquota-reset": "400"}),
    Row("mailersend", "408", 408, {"message": "x"}, NODE),
    Row("mailersend", "500", 500, {"message": "x"}, UNCERTAIN),
    # Microsoft Graph
    Row("msgraph", "sent", 202, b"", SENT),
    Row("msgraph", "base64", 400, graph("ErrorMimeContentInvalidBase64String"), MESSAGE),
    Row("msgraph", "recipients", 400, graph("ErrorInvalidRecipients"), MESSAGE),
    Row("msgraph", "size", 400, graph("ErrorMessageSizeExceeded"), MESSAGE, SIZE),
    Row("msgraph", "size by status", 413, graph("x", "The maximum request length supported is 4MB."), MESSAGE, SIZE),
    Row("msgraph", "token", 401, graph("InvalidAuthenticationToken", "Access token has expired"), ACCOUNT),
    Row("msgraph", "rights", 403, graph("ErrorAccessDenied"), ACCOUNT),
    Row("msgraph", "send as", 403, graph("ErrorSendAsDenied"), MESSAGE, SENDER),
    Row("msgraph", "mailbox", 404, graph("MailboxNotEnabledForRESTAPI"), ACCOUNT),
    Row("msgraph", "throttled", 429, graph("ApplicationThrottled"), QUOTA, "", 12.0, {"Retry-After": "12"}),
    Row("msgraph", "day", 403, graph("ErrorExceededMessageLimit"), QUOTA),
    Row("msgraph", "busy", 503, graph("ErrorServerBusy"), QUOTA, "", 5.0, {"Retry-After": "5"}),
    Row("msgraph", "504", 504, graph("x"), UNCERTAIN),
    # Gmail
    Row("gmail-api", "sent", 200, {"id": "g"}, SENT),
    Row("gmail-api", "message", 400, google("invalidArgument", "Recipient address required"), MESSAGE),
    Row("gmail-api", "no mail", 400, google("failedPrecondition", "Mail service not enabled"), ACCOUNT),
    Row("gmail-api", "token", 401, google("authError", "Invalid Credentials"), ACCOUNT),
    Row("gmail-api", "rate", 403, google("userRateLimitExceeded", "User-rate limit exceeded."), QUOTA),
    Row("gmail-api", "day", 403, google("dailyLimitExceeded", "Daily Limit Exceeded"), QUOTA),
    Row("gmail-api", "rights", 403, google("insufficientPermissions", "Insufficient Permission"), ACCOUNT),
    Row("gmail-api", "policy", 403, google("domainPolicy", "disabled by admin"), ACCOUNT),
    Row("gmail-api", "size", 413, google("", "too large"), MESSAGE, SIZE),
    Row(
        "gmail-api",
        "time in the text",
        429,
        google("rateLimitExceeded", "User-rate limit exceeded.  Retry after 2026-01-01T00:02:00.000Z"),
        QUOTA,
        "",
        120.0,
    ),
    Row("gmail-api", "503", 503, google("backendError", "Backend Error"), NODE),
    Row("gmail-api", "500", 500, google("backendError", "Backend Error"), UNCERTAIN),
    # Mumara ONE
    Row("mumara-one", "sent", 202, {"id": "msg_1", "status": "queued"}, SENT),
    Row("mumara-one", "200 with an error inside", 200, {"status": "error", "message": "subject is missing"}, MESSAGE),
    Row("mumara-one", "200 with a suspension inside", 200, {"success": False, "message": "This bridge is suspended"}, ACCOUNT),
    Row("mumara-one", "200 of nothing", 200, b"<html>Welcome</html>", UNCERTAIN),
    Row("mumara-one", "token", 401, {"message": "Unauthenticated."}, ACCOUNT),
    Row("mumara-one", "domain", 422, {"message": "The sending domain is not verified"}, MESSAGE, SENDER),
    Row("mumara-one", "rate", 429, {"message": "x"}, QUOTA, "", 3.0, {"Retry-After": "3"}),
    # Another relay
    Row("relay", "sent", 202, {"id": "01J"}, SENT),
    Row("relay", "accepted without an id", 202, {}, UNCERTAIN),
    Row("relay", "message", 422, {"error": "no such recipient"}, MESSAGE),
    Row("relay", "token", 401, {"error": "unknown token"}, ACCOUNT),
    Row("relay", "sender", 403, {"error": "the bridge may not use this sender"}, MESSAGE, SENDER),
    Row("relay", "size", 413, {"error": "too large"}, MESSAGE, SIZE),
    Row("relay", "busy", 503, {"error": "full"}, QUOTA, "", 30.0, {"Retry-After": "30"}),
    Row("relay", "500", 500, {"error": "x"}, UNCERTAIN),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.kind}: {row.what}")
def test_an_answer_means(row: Row) -> None:
    (found,) = api(row.kind).parse(answer(row.status, row.body, **row.headers), letter())
    got = found.outcome
    assert found.address == "jane@customer.example"
    assert ((got.status, got.scope), got.enhanced) == (row.means, row.enhanced)
    assert got.code == row.status
    assert got.phase == "http"
    assert got.attempted
    if row.wait_s is not None:
        assert got.retry_after_s == pytest.approx(row.wait_s)


VENDORS = [*(kind for kind, parts in KINDS.items() if parts.api), "relay"]
BY_STATUS = {
    301: ACCOUNT,
    401: ACCOUNT,
    403: ACCOUNT,
    404: ACCOUNT,
    408: NODE,
    413: MESSAGE,
    429: QUOTA,
    500: UNCERTAIN,
    502: UNCERTAIN,
    503: NODE,
    504: UNCERTAIN,
    599: UNCERTAIN,
}
GATEWAY = [b"", b"<html><h1>Gateway</h1></html>", b"[]", b'{"error": null}', b"\xff\xfe"]


@pytest.mark.parametrize("kind", VENDORS)
def test_a_gateway_in_between_answers_by_status_alone(kind: str) -> None:
    """Nothing raises, whatever came back, and nothing is ever taken for a delivery."""
    for status, means in BY_STATUS.items():
        for body in GATEWAY:
            (found,) = api(kind).parse(answer(status, body), letter())
            assert (found.outcome.status, found.outcome.scope) == means, (status, body)


STRANGE = [
    b"",
    b"null",
    b"{}",
    b"[]",
    b"[null]",
    b'"ok"',
    b'{"data": null}',
    b'{"errors": [null]}',
    b'{"error": [1]}',
    b'{"Messages": [null]}',
    b'{"Messages": [{"Errors": [7]}]}',
    b'{"results": 1}',
    b'{"warnings": [1]}',
    b'{"data": {"failures": 3}}',
    b'{"data": {"succeeded": 0, "failures": 3}}',
    b'{"Messages": [{"To": 7}], "results": {"total_rejected_recipients": 1, "rcpt_to_errors": 7}}',
    b'{"warnings": 5}',
]
BY_STATUS_ALONE = {("sendgrid", 202), ("mailersend", 202), ("msgraph", 202)}


@pytest.mark.parametrize("kind", VENDORS)
def test_a_strange_body_raises_nothing_and_proves_nothing(kind: str) -> None:
    for status in (200, 201, 202, 400, 422):
        for body in STRANGE:
            (found,) = api(kind).parse(answer(status, body), letter())
            api(kind).parse_probe(answer(status, body))
            if found.outcome.status is Status.DELIVERED:
                assert (kind, status) in BY_STATUS_ALONE, body


def test_recipients_of_one_call_have_answers_of_their_own() -> None:
    body = [
        {"email": "A@x.example", "status": "sent", "_id": "1"},
        {"email": "b@x.example", "status": "rejected", "reject_reason": "unsub", "_id": "2"},
    ]
    found = api("mandrill").parse(answer(200, body), letter("a@x.example", "b@x.example", "c@x.example"))
    assert [o.outcome.status for o in found] == [Status.DELIVERED, Status.REFUSED, Status.UNCERTAIN]
    assert [o.outcome.vendor_id for o in found] == ["1", "2", ""]
    body2 = {"data": {"succeeded": 1, "failed": 1, "failures": ["b@x.example: on the block list"], "email_id": "7"}}
    found = api("smtp2go").parse(answer(200, body2), letter("a@x.example", "b@x.example"))
    assert [o.outcome.status for o in found] == [Status.DELIVERED, Status.REFUSED]
    body3 = {"data": {"succeeded": 1, "failed": 1, "failures": ["something"], "email_id": "7"}}
    found = api("smtp2go").parse(answer(200, body3), letter("a@x.example", "b@x.example"))
    assert [o.outcome.status for o in found] == [Status.UNCERTAIN, Status.UNCERTAIN]
    body4 = {"warnings": [{"type": "SOME_SUPPRESSED", "recipients": [{"email": "b@x.example", "reasons": ["x"]}]}]}
    found = api("mailersend").parse(answer(202, body4), letter("a@x.example", "b@x.example"))
    assert [o.outcome.status for o in found] == [Status.DELIVERED, Status.REFUSED]
    entries = {"To": [{"Email": "a@x.example", "MessageID": 2**40}], "Bcc": [{"Email": "b@x.example", "MessageID": 7}]}
    found = api("mailjet").parse(
        answer(200, {"Messages": [{"Status": "success", **entries}]}), letter("a@x.example", "b@x.example")
    )
    assert [o.outcome.vendor_id for o in found] == [str(2**40), "7"]


def test_a_batch_of_sparkpost_tells_how_many_and_sometimes_who() -> None:
    results = {"id": "1", "total_accepted_recipients": 1, "total_rejected_recipients": 1}
    named = {"results": {**results, "rcpt_to_errors": [{"message": "suppressed", "description": "b@x.example"}]}}
    found = api("sparkpost").parse(answer(200, named), letter("a@x.example", "b@x.example"))
    assert [o.outcome.status for o in found] == [Status.DELIVERED, Status.REFUSED]
    found = api("sparkpost").parse(answer(200, {"results": results}), letter("a@x.example", "b@x.example"))
    assert [o.outcome.status for o in found] == [Status.DELIVERED, Status.DELIVERED]
    assert "1 of 2 refused" in found[0].outcome.text


@pytest.mark.parametrize(
    ("header", "date", "expected"),
    [
        ("120", "", 120.0),
        ("1.5", "", 1.5),
        ("Thu, 01 Jan 2026 00:01:00 GMT", "", 60.0),
        ("Thu, 01 Jan 2026 00:01:00 GMT", "Thu, 01 Jan 2026 00:00:30 GMT", 30.0),  # their clock, not ours
        ("Wed, 31 Dec 2025 00:00:00 GMT", "", 0.0),
        ("soon", "", None),
        ("-5", "", None),
        ("", "", None),
        ("99999999999999999999", "", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str, date: str, expected: float | None) -> None:
    assert asked_s(answer(429, b"", retry_after=header, date=date)) == expected


def test_a_wait_of_years_is_not_believed() -> None:
    assert outcome(Means.QUOTA, answer(429, b"", retry_after="999999999")).retry_after_s == 86400.0


@pytest.mark.parametrize(
    ("remaining", "reset", "expected"),
    [
        ("0", "30", 30.0),
        ("0", str(int(NOW) + 45), 45.0),
        ("1", "30", 0.0),
        ("", "30", 0.0),
        ("0", "soon", 0.0),
        ("0", "", 0.0),
    ],
)
def test_rate_headers_that_say_nothing_is_left_pause_the_node(remaining: str, reset: str, expected: float) -> None:
    gauge = Gauge(remaining="x-remaining", reset="x-reset")
    assert gauge.pause_s(answer(202, b"", x_remaining=remaining, x_reset=reset)) == expected


def test_every_common_row_is_reachable() -> None:
    statuses = [302, 401, 402, 404, 408, 413, 429, 400, 503, 500]
    reached = {next(rule.why for rule in COMMON if rule.fits(status, "", "")) for status in statuses}
    assert reached == {rule.why for rule in COMMON}
    assert judge((), answer(418), "", "") is Means.MESSAGE


def test_a_key_is_of_the_message_and_its_recipients() -> None:
    one, same, other = letter("a@x", "b@x"), letter("b@x", "a@x"), letter("a@x")
    assert one.key == same.key != other.key
    assert one.key.startswith("01J0-")


def test_what_a_vendor_says_is_one_printable_line() -> None:
    (found,) = api("postmark").parse(
        answer(422, {"ErrorCode": 300, "Message": "bad\r\n\x1b[31mred " + "x" * 900}), letter()
    )
    assert isinstance(found.outcome, Outcome)
    assert found.outcome.text.isprintable()
    assert len(found.outcome.text) <= 500
