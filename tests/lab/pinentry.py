"""A pinentry that knows the PINs (the Assuan protocol as gpg-agent speaks it); `gpg.py` fills them in."""

import sys


def main() -> None:
    """Answer until BYE."""
    print("OK", flush=True)
    prompt = ""
    for line in sys.stdin:
        if line.startswith(("SETDESC", "SETPROMPT")):
            prompt += line
        elif line.startswith("GETPIN"):
            print("D", "@ADMIN_PIN@" if "dmin" in prompt else "@PIN@")
            prompt = ""
        elif line.startswith("GETINFO"):
            print("D 1")
        print("OK", flush=True)
        if line.startswith("BYE"):
            return


if __name__ == "__main__":
    main()
