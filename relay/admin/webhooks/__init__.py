"""Events told to others by HTTP: signed as Standard Webhooks says, kept on disk until they are taken or too old."""
