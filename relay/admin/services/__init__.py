"""What operators can see and do, as plain values; pages and API are two faces of it."""
