#!/usr/bin/env python3
"""Opens ESXi's encryption envelope, or puts other data into it under the same header.

usage: envelope.py open|close ENCRYPTION.INFO ENVELOPE DATA. Needs python3-cryptography.
The part of a repair by hand that no command-line tool does.
"""
import base64
import hashlib
import re
import struct
import sys

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

BLOCK = 4096
PEPPER = b"This is obfuscation, not encryption. If you want encryption, use TPM."

verb, info, path, data_path = sys.argv[1:]
with open(info, encoding="utf-8") as file:
    fields = dict(re.findall(r"(data[12])=([^:\"]*)", file.read()))
data1, data2 = (base64.b64decode(fields[name].replace("%3d", "=")) for name in ("data1", "data2"))
cipher = AESGCM(hashlib.pbkdf2_hmac("sha256", data1 + PEPPER, data2, 100_000, 32))
with open(path, "rb") as file:
    envelope = file.read()
header, body, footer = envelope[:BLOCK], envelope[BLOCK:-BLOCK], envelope[-BLOCK:]
at = header.index(b"vmware.iv\0") + len(b"vmware.iv\0") + 8
iv, context = header[at : at + 12], header + b"ESXConfiguration"
if verb == "open":
    plain = cipher.decrypt(iv, body + footer[32:48], context)
    (padding,) = struct.unpack("<I", plain[-8:-4])
    with open(data_path, "wb") as file:
        file.write(plain[: -BLOCK - padding])
else:
    with open(data_path, "rb") as file:
        data = file.read()
    padding = -len(data) % BLOCK
    trailer = b"DataTransformCryptoFooter".ljust(504, b"\0") + struct.pack("<II", padding, 2)
    sealed = cipher.encrypt(iv, data + bytes(padding + BLOCK - 512) + trailer, context)
    with open(path, "wb") as file:
        file.write(header + sealed[:-16] + footer[:32] + sealed[-16:] + footer[48:])
