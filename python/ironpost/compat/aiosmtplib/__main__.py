"""Asks for a message and sends it: `python -m ironpost.compat.aiosmtplib`."""

from .smtp import SMTP, SMTP_PORT

hostname = input("SMTP server hostname [localhost]: ") or "localhost"
port = int(input(f"SMTP server port [{SMTP_PORT}]: ") or SMTP_PORT)
sender = input("From: ")
recipients = input("To: ").split(",")
print("Enter message, end with ^D:")
lines = []
while True:
    try:
        lines.append(input())
    except EOFError:
        break
message = "\n".join(lines)
print(f"Message length (bytes): {len(message.encode())}")
_, response = SMTP(hostname=hostname, port=port, start_tls=False).sendmail_sync(sender, recipients, message)
print(f"Server response: {response}")
