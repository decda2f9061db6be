"""An SMTP relay proxy: bridges in, pools of nodes out."""

__version__ = "0.1.0"
