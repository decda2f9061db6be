"""Who may do what: tokens, sessions of browsers, roles, and what keeps other sites out."""
