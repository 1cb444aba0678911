"""Asks verifiers that this project did not write what they think of an attestation document.

Usage: verify.py DOCUMENT ROOT_PEM PCR0_HEX

Prints one JSON object: verifier name -> {"accepted": bool, "reason": text}. The verifiers:
  epsilon          PyPI epsilon-attestation-verifier: syntax, chain under the given root at this moment, COSE signature, PCR0
  openssl+pycose   `openssl verify` for the chain at the document's time, PyPI pycose for the COSE signature under the leaf
The last is two tools because each checks one half only; both halves must say yes. pycose looks at no PCR, so PCR0 is compared here.
"""

import base64
import json
import pathlib
import subprocess
import sys
import tempfile

import cbor2
from cryptography import x509
from epsilon_verifier import verify_attestation
from pycose.keys import EC2Key
from pycose.keys.curves import P384
from pycose.messages import Sign1Message


def epsilon(document: bytes, root: pathlib.Path, pcr0: str) -> str | None:
    result = verify_attestation(
        base64.b64encode(document).decode(), aws_root_cert_path=str(root), expected_pcr0=pcr0
    )
    return None if result.valid else str(result.error)


def openssl_and_pycose(document: bytes, root: pathlib.Path, pcr0: str) -> str | None:
    outer = cbor2.loads(document)
    payload = cbor2.loads(outer[2])
    with tempfile.TemporaryDirectory() as folder:
        leaf = pathlib.Path(folder, "leaf.pem")
        leaf.write_text(pem(payload["certificate"]))
        between = pathlib.Path(folder, "between.pem")
        between.write_text("".join(pem(der) for der in payload["cabundle"][1:]))
        chain = subprocess.run(
            ["openssl", "verify", "-attime", str(payload["timestamp"] // 1000),
             "-CAfile", str(root), "-untrusted", str(between), str(leaf)],
            capture_output=True, text=True, check=False,
        )
        if chain.returncode != 0:
            return "openssl verify: " + chain.stderr.strip()
    numbers = x509.load_der_x509_certificate(payload["certificate"]).public_key().public_numbers()
    key = EC2Key(crv=P384, x=numbers.x.to_bytes(48, "big"), y=numbers.y.to_bytes(48, "big"))
    message = Sign1Message.from_cose_obj(list(outer), allow_unknown_attributes=False)
    message.key = key
    if not message.verify_signature():
        return "pycose: the signature does not verify"
    if payload["pcrs"][0].hex() != pcr0:
        return "PCR0 differs"
    return None


def pem(der: bytes) -> str:
    return "-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der).decode() + "-----END CERTIFICATE-----\n"


def opinion(verifier, *arguments) -> dict:
    try:
        reason = verifier(*arguments)
    except Exception as error:  # a verifier that raises has refused
        reason = f"{type(error).__name__}: {error}"
    return {"accepted": reason is None, "reason": reason or ""}


def main() -> None:
    document, root, pcr0 = pathlib.Path(sys.argv[1]).read_bytes(), pathlib.Path(sys.argv[2]), sys.argv[3]
    print(json.dumps({
        "epsilon": opinion(epsilon, document, root, pcr0),
        "openssl+pycose": opinion(openssl_and_pycose, document, root, pcr0),
    }))


if __name__ == "__main__":
    main()
