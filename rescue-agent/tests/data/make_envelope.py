#!/usr/bin/python3
"""Makes local.tgz.ve and encryption.info, the fixtures of the envelope's unit tests.

Written from the description of the format alone and with another cryptographic library
(python3-cryptography), so that it shares no code and no mistake with the agent. Inputs are
fixed: running it again gives the same bytes.

  make_envelope.py [FOLDER] [--data FILE] [--footer-version 1|2]

--data puts the contents of FILE into the envelope instead of the fixed text.
"""

import argparse
import base64
import hashlib
import pathlib
import struct
import urllib.parse

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

BLOCK = 4096
CIPHER = b"AES-256-GCM"
OBFUSCATION = b"This is obfuscation, not encryption. If you want encryption, use TPM."
DATA1 = bytes(range(0x30, 0x50))
DATA2 = bytes(range(0xC0, 0xE0))
KEY_ID = bytes.fromhex("5a0c1b2d3e4f405162738495a6b7c8d9")
IV = bytes(range(0xA0, 0xAC))
TEXT = b"".join(b"line %04d of a state archive\n" % n for n in range(173))


def field(data):
    return urllib.parse.quote(base64.b64encode(data).decode(), safe="/+")


def encryption_info():
    data = f"keyId={field(KEY_ID)}:data1={field(DATA1)}:data2={field(DATA2)}:version=1"
    return (
        '.encoding = "UTF-8"\n'
        'includeKeyCache = "FALSE"\n'
        'mode = "NONE"\n'
        f'ConfigEncData = "{data}"\n'
    ).encode()


def string(name, value):
    return struct.pack("<BBH", 0x0B, 0, 0) + name + b"\0" + value + b"\0"


def binary(name, value):
    return struct.pack("<BBH", 0x0C, 0, 0) + name + b"\0" + struct.pack("<Q", len(value)) + value


def header(key):
    attributes = (
        binary(b"vmware.iv", IV)
        + string(b"vmware.keyInfo", b"5a0c1b2d-3e4f-4051-6273-8495a6b7c8d9")
        + string(b"vmware.cipherName", CIPHER)
        + binary(b"vmware.keyHash", hashlib.sha256(CIPHER + key).digest())
    )
    head = b"DataTransformEnvelope".ljust(504, b"\0") + struct.pack("<II", BLOCK - 512, 2)
    return (head + attributes).ljust(BLOCK, b"\0")


def envelope(key, data, footer_version):
    padding = -len(data) % BLOCK
    # Filler that is not zero, so that a reader who takes it for data is found out.
    trailer = b"DataTransformCryptoFooter".ljust(504, b"\0")
    trailer += struct.pack("<II", padding, footer_version)
    plain = data + b"\xa5" * padding + b"\x5a" * (BLOCK - 512) + trailer
    head = header(key)
    sealed = AESGCM(key).encrypt(IV, plain, head + b"ESXConfiguration")
    ciphertext, tag = sealed[:-16], sealed[-16:]
    foot = (b"DataTransformAeadFooter".ljust(32, b"\0") + tag).ljust(BLOCK - 8, b"\0")
    return head + ciphertext + foot + struct.pack("<II", 16, 1)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("folder", nargs="?", type=pathlib.Path)
    options.add_argument("--data", type=pathlib.Path)
    options.add_argument("--footer-version", type=int, choices=(1, 2), default=2)
    options = options.parse_args()
    folder = options.folder or pathlib.Path(__file__).parent
    data = options.data.read_bytes() if options.data else TEXT
    key = hashlib.pbkdf2_hmac("sha256", DATA1 + OBFUSCATION, DATA2, 100_000, 32)
    (folder / "encryption.info").write_bytes(encryption_info())
    (folder / "local.tgz.ve").write_bytes(envelope(key, data, options.footer_version))


if __name__ == "__main__":
    main()
