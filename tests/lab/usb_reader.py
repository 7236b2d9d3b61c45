"""A pcscd with one USB reader that can be unplugged; to pcscd it is as real as any, see `usb_reader.c`."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.lab.computer import Computer
from tests.lab.pcscd import DRIVER, Pcscd
from tests.lab.process import Command, run, wait_until

_EVENTS = Path("/run/pcscd/usb")
_DRIVERS = "/usr/lib/pcsc/drivers"
_PROPERTIES = {"CFBundleExecutable": "usb_reader.so", "CFBundleName": "usb_reader"}
_LISTS = {"ifdVendorID": "0x1050", "ifdProductID": "0x0407"}


class UsbReader(Pcscd):
    """pcscd, and a YubiKey's reader in its computer's USB port; `piv_card` with ``stay`` is the key in it.

    Args:
        computer: where it runs.
        name: of the reader; pcscd adds two numbers.
    """

    def __init__(self, computer: Computer, name: str = "Yubico YubiKey OTP+FIDO+CCID") -> None:
        contents = computer.folder / "drivers" / "usb_reader.bundle" / "Contents"
        folder = contents / "Linux"
        folder.mkdir(parents=True)
        driver = folder / "usb_reader.so"
        behind = shutil.copy(DRIVER, folder / "libifdvpcd.so.0")  # the name by which the loader looks for it
        source = Path(__file__).with_suffix(".c")
        compiler: Command = ["gcc", "-shared", "-fPIC", "-O1", "-I/usr/include/PCSC", "-o", driver, source]
        run([*compiler, "-Wl,--no-as-needed", behind, f"-Wl,-rpath,{folder}"]).check()
        words = [f"<key>{key}</key><string>{value}</string>" for key, value in _PROPERTIES.items()]
        lists = {**_LISTS, "ifdFriendlyName": name}
        words += [f"<key>{key}</key><array><string>{value}</string></array>" for key, value in lists.items()]
        (contents / "Info.plist").write_text("\n".join(["<dict>", *words, "</dict>"]) + "\n")
        computer.holder.mount_bind(contents.parent.parent, _DRIVERS)
        super().__init__(computer, readers=0, name=name, program=("env", f"LD_PRELOAD={driver}", "pcscd"))

    def unplug(self) -> None:
        """Pull it out and wait until pcscd has noticed."""
        self._events(b"-")
        wait_until(lambda: not self.computer.pcsc("list")["readers"], "the reader is gone")

    def plug(self) -> None:
        """Put it back in, if it is out."""
        self._events(b"+")

    def bounce(self) -> None:
        """Out and in again at once, as a reset of the bus does; the card says ``inserted`` when it is back."""
        self._events(b"-+")

    def _events(self, actions: bytes) -> None:
        with self.computer.outside(_EVENTS).open("wb", buffering=0) as fifo:
            fifo.write(actions)
