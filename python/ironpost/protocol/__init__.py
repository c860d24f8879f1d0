"""The conversation: sans-IO state machines for both sides of SMTP, driven by tables; each extension is one file."""
