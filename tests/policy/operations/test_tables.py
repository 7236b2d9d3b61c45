"""What one command does, by the application that is selected."""

from __future__ import annotations

import pytest

from cardferry.policy.operations import Action, Tracker

PIV, OPENPGP, PKCS15 = "00A4040005A000000308", "00A4040006D27600012401", "00A404000CA000000063504B43532D3135"
GLOBAL_PLATFORM, OTP, MANAGEMENT = "00A4040007A0000001510000", "00A4040007A0000005272001", "00A4040008A000000527471117"
FOREIGN = "00A404000BE82B0601040181C31F0201"
RSA = "7C820106" + "8200" + "81820100" + "11" * 256


def judged(select: str, *commands: str) -> str:
    """What the last command does, such as ``sign:9C``, after a SELECT and others that the card has accepted."""
    tracker = Tracker()
    if select:
        tracker.answered(tracker.judge(bytes.fromhex(select)), b"\x90\x00")
    for command in commands[:-1]:
        tracker.answered(tracker.judge(bytes.fromhex(command)), b"\x90\x00")
    return words(tracker.judge(bytes.fromhex(commands[-1])))


def words(action: Action) -> str:
    return f"{action.operation}:{action.object}" if action.object else f"{action.operation}"


def authenticate(algorithm: str, key: str, template: str) -> str:
    """GENERAL AUTHENTICATE, with extended lengths when it must."""
    size = len(template) // 2
    return f"0087{algorithm}{key}" + (f"{size:02X}" if size < 256 else f"00{size:04X}") + template


CHALLENGE, POINT = "7C0682008102AABB", "7C0682008502AABB"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        # RSA: what the key is there for
        (authenticate("07", "9A", RSA), "authenticate:9A"),
        (authenticate("07", "9C", RSA), "sign:9C"),
        (authenticate("07", "9D", RSA), "decrypt:9D"),
        (authenticate("07", "9E", RSA), "authenticate:9E"),
        (authenticate("05", "82", RSA), "decrypt:82"),
        (authenticate("16", "95", RSA), "decrypt:95"),
        (authenticate("07", "F9", RSA), "sign:F9"),
        # elliptic curves: what is asked
        (authenticate("11", "9A", CHALLENGE), "authenticate:9A"),
        (authenticate("14", "9C", CHALLENGE), "sign:9C"),
        (authenticate("11", "9D", CHALLENGE), "sign:9D"),
        (authenticate("E0", "82", CHALLENGE), "sign:82"),
        (authenticate("11", "9D", POINT), "decrypt:9D"),
        (authenticate("11", "9C", POINT), "decrypt:9C"),
        (authenticate("E1", "82", POINT), "decrypt:82"),
        (authenticate("11", "9C", "7C048102AABB"), "sign:9C"),
        (authenticate("11", "9C", "7C068102AABB8200"), "sign:9C"),
        # symmetric keys
        (authenticate("03", "9E", CHALLENGE), "authenticate:9E"),
        (authenticate("08", "9C", CHALLENGE), "other"),
        (authenticate("03", "9B", "7C028000"), "administer:9B"),
        (authenticate("0C", "9B", "7C028100"), "administer:9B"),
        (authenticate("03", "9B", "00"), "administer:9B"),
        # unclear
        (authenticate("11", "9C", "7C0A82008102AABB8502CCDD"), "other"),
        (authenticate("11", "9C", "7C0A82008102AABB8102CCDD"), "other"),
        (authenticate("11", "9C", "7C0482008100"), "other"),
        (authenticate("11", "9C", "7C0782018A8102AABB"), "other"),
        (authenticate("11", "9C", "7C0682008002AABB"), "other"),
        (authenticate("11", "9C", "7C028200"), "other"),
        (authenticate("11", "9C", "7C0782008102AABB"), "other"),
        (authenticate("11", "9C", CHALLENGE + "00"), "other"),
        (authenticate("11", "9C", CHALLENGE + CHALLENGE), "other"),
        (authenticate("11", "9C", "7C810682008102AABB"), "other"),
        (authenticate("11", "9C", ""), "other"),
        (authenticate("11", "81", CHALLENGE), "other"),
        (authenticate("27", "04", CHALLENGE), "other"),
        (authenticate("FF", "9C", CHALLENGE), "other"),
        # PINs
        ("0020008008313233343536FFFF", "verify:80"),
        ("0020008000", "read:80"),
        ("00200080", "read:80"),
        ("0020FF80", "verify:80"),
        ("00200096020300", "verify:96"),
        ("00240081103132333435363738" + "11" * 8, "manage-pin:81"),
        ("002C0080103132333435363738" + "11" * 8, "manage-pin:80"),
        ("00FA050500", "manage-pin"),
        # keys and objects
        ("0047009A05AC03800111", "generate:9A"),
        ("0047819A05AC03800111", "generate:9A"),
        ("00FE119E220620" + "22" * 32, "generate:9E"),
        ("00F6FF9C00", "generate:9C"),
        ("00F6829C00", "administer"),
        ("00CB3FFF055C035FC10500", "read:5FC105"),
        ("00CB3FFF035C017E00", "read:7E"),
        ("00DB3FFF075C035FC1055300", "write:5FC105"),
        ("00DB3FFF047E024F00", "write:7E"),
        ("00DB3FFF097F6106010203040506", "write:7F61"),
        ("00DB3FFF055C035FC105", "write"),
        ("00DB3FFF045C005300", "write"),
        ("00DB3FFF0C5C035FC10553005C035FC107", "write"),
        ("00DB3FFF085C81035FC1055300", "write"),
        ("00DB0101025300", "other"),
        # Yubico's
        ("00F7009A00", "read:9A"),
        ("00F8000000", "read"),
        ("00FD000000", "read"),
        ("00F99A0000", "sign:F9"),
        ("00FB000000", "administer"),
        ("00FFFFFF1B039B18" + "01" * 24, "administer:9B"),
        ("00EE000000", "other"),
    ],
)
def test_piv(command: str, expected: str) -> None:
    assert judged(PIV, command) == expected


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("002A9E9A0401020304", "sign:SIG"),
        ("002A80860401020304", "decrypt:DEC"),
        ("002A86800401020304", "other"),
        ("00880000040102030400", "authenticate:AUT"),
        ("0020008106313233343536", "verify:81"),
        ("00200083", "read:83"),
        ("0020FF82", "verify:82"),
        ("0024008106313233343536", "manage-pin:81"),
        ("002C028106313233343536", "manage-pin:81"),
        ("0047800002B60000", "generate:SIG"),
        ("00478000000002B800010F", "generate:DEC"),
        ("0047800002A400", "generate:AUT"),
        ("0047810002B60000", "read:SIG"),
        ("0047810005B60384018100", "generate"),  # of another key, or of this one: not every card looks
        ("0047810002B700", "generate"),
        ("0047819A02B600", "generate:SIG"),
        ("0047000002B600", "generate:SIG"),
        ("00CA006E00", "read:6E"),
        ("00CA7F2100", "read:7F21"),
        ("00CA010100", "read:0101"),
        ("00DA005B0141", "write:5B"),
        ("00DA01010141", "write:0101"),
        ("00DA7F210141", "write:7F21"),
        ("00DA00C714" + "55" * 20, "write:C7"),
        ("00DA00CE0401020304", "write:CE"),
        ("00DA00C40100", "manage-pin"),
        ("00DA00D3083132333435363738", "manage-pin"),
        ("00DA00F90141", "manage-pin"),
        ("00DA00C10141", "generate:SIG"),
        ("00DA00C20141", "generate:DEC"),
        ("00DA00C30141", "generate:AUT"),
        ("00DA00D50141", "generate"),
        ("00DA00D6020120", "administer"),
        ("00DA00F40141", "other"),
        ("00DA00650141", "other"),
        ("00DB3FFF0B4D097F480292015F4801AA", "generate"),
        ("00DB3FFF0D4D0BB6007F480292015F4801AA", "generate:SIG"),
        ("00DB3FFF0D4D0BB8007F480292015F4801AA", "generate:DEC"),
        ("00DB3FFF0D4D0BA4007F480292015F4801AA", "generate:AUT"),
        ("00DB3FFF104D0EB6038401817F480292015F4801AA", "generate"),
        ("00DB3FFF0F4D0DB600B8007F480292015F4801AA", "generate"),
        ("00DB3FFF055C035FC105", "other"),
        ("00DB00000D4D0BB6007F480292015F4801AA", "other"),
        ("00E60000", "administer"),
        ("00440000", "administer"),
        ("0084000008", "read"),
        ("00A500040660045C027F21", "read"),
        ("00CC7F2100", "read"),
        ("00F1000000", "read"),
        ("00F2030303", "manage-pin"),
        ("80FB0100", "other"),
        ("0087119C0101", "other"),
    ],
)
def test_openpgp(command: str, expected: str) -> None:
    assert judged(OPENPGP, command) == expected


@pytest.mark.parametrize(
    ("environment", "command", "expected"),
    [
        ("002241A403830102", "008800000401020304", "authenticate:DEC"),
        ("002241A403830103", "008800000401020304", "authenticate:AUT"),
        ("002241B803830103", "002A80860401020304", "decrypt:AUT"),
        ("002241B803830102", "002A80860401020304", "decrypt:DEC"),
        ("002241B803830104", "002A80860401020304", "decrypt"),
        ("002241A403830102", "002A9E9A0401020304", "sign:SIG"),
        # selected anew: the card may have forgotten, or not
        ("002241A403830102", OPENPGP + "|008800000401020304", "authenticate"),
    ],
)
def test_openpgp_keys_can_be_exchanged(environment: str, command: str, expected: str) -> None:
    assert judged(OPENPGP, environment, *command.split("|")) == expected


@pytest.mark.parametrize(
    ("commands", "expected"),
    [
        # OpenSC's iso7816_set_security_env and those after it
        ("002241B606800102840101", "sign:01"),
        ("002241B606800102840101|002A9E9A0401020304", "sign:01"),
        ("002241B60A80010281024B01840100|002A9E9A0401020304", "sign:4B01/00"),
        ("002241B803840103|002A8086050001020304", "decrypt:03"),
        ("002241B803830103|002A8086050001020304", "decrypt:03"),
        ("002241A403840102|008800000401020304", "authenticate:02"),
        ("008800050401020304", "authenticate:05"),
        ("002A9E9A0401020304", "sign"),
        ("002A80860401020304", "decrypt"),
        ("002241B803840103|002A9E9A0401020304", "sign"),
        # which key is not certain
        ("002241B606840101840102|002A9E9A0401020304", "sign"),
        ("002241B603800102|002A9E9A0401020304", "sign"),
        ("002241B603840101|0022F303|002A9E9A0401020304", "sign"),
        ("002241B603840101|00A4000C025015|002A9E9A0401020304", "sign"),
        ("002241A603840101|002241B803840103|002A80860401020304", "decrypt"),
        # setting is worth what can be done with it
        ("002241B803840103", "decrypt:03"),
        ("002241A603840103", "decrypt:03"),
        ("002241A403840103", "authenticate:03"),
        ("002241B403840103", "other"),
        ("002241AA03800110", "read"),
        ("0022F303", "read"),
        ("0022F203", "administer"),
        # the rest of ISO 7816-8 and -4
        ("002A90A00401020304", "sign"),
        ("002A8E800401020304", "other"),
        ("002A00A80401020304", "other"),
        ("0047800002B600", "generate"),
        ("0047810002B600", "read"),
        ("002000010431323334", "verify:01"),
        ("00200001", "read:01"),
        ("002400010431323334", "manage-pin:01"),
        ("002600010431323334", "manage-pin:01"),
        ("00B0000000", "read"),
        ("00B2010400", "read"),
        ("00D600000141", "write"),
        ("00DC01040141", "write"),
        ("000E0000", "write"),
        ("00DA016E0141", "administer"),
        ("00E00000", "administer"),
        ("00E40000", "administer"),
        ("008200000401020304", "administer"),
        ("008600000401020304", "other"),
        ("00C200000401020304", "other"),
        ("0070000001", "read"),
        ("0070400000", "other"),
        ("00A41000023F00", "other"),
        ("00120000", "other"),
    ],
)
def test_pkcs15(commands: str, expected: str) -> None:
    assert judged(PKCS15, *commands.split("|")) == expected


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("80CA9F7F00", "read"),
        ("80F28000024F0000", "read"),
        ("8050000008" + "11" * 8, "administer"),
        ("8482000010" + "11" * 16, "administer"),
        ("84E60C0004" + "11" * 4, "administer"),
        ("80E40000024F00", "administer"),
        ("80E80000024F00", "administer"),
        ("80D80000024F00", "administer"),
        ("80E20000024F00", "administer"),
        ("80F00000024F00", "administer"),
        ("84F28000024F00", "other"),
        ("84CA9F7F00", "other"),
        ("80100000", "other"),
        ("90E40000024F00", "other"),
    ],
)
def test_global_platform(command: str, expected: str) -> None:
    assert judged(GLOBAL_PLATFORM, command) == expected


@pytest.mark.parametrize(
    ("select", "command", "expected"),
    [
        (OTP, "0003000000", "read"),
        (OTP, "0001100000", "read"),
        (OTP, "000101000141", "other"),
        (OTP, "000138000141", "other"),
        (MANAGEMENT, "001D000000", "read"),
        (MANAGEMENT, "001C00000141", "administer"),
        (MANAGEMENT, "001611000141", "administer"),
        (MANAGEMENT, "001F0000", "administer"),
        (MANAGEMENT, "00200080", "read:80"),
    ],
)
def test_yubikey(select: str, command: str, expected: str) -> None:
    assert judged(select, command) == expected


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        # the same everywhere
        (PIV, "read:A000000308"),
        ("00CA006E00", "read:6E"),
        ("80CA9F7F00", "read"),
        ("0020008008313233343536FFFF", "verify:80"),
        ("00200080", "read:80"),
        ("0024008110" + "31" * 16, "manage-pin:81"),
        ("002A9E9A0401020304", "sign"),
        ("002A80860401020304", "decrypt"),
        ("008800000401020304", "authenticate"),
        ("00E60000", "administer"),
        ("00D600000141", "write"),
        # one thing here, a stronger there
        ("0047810002B600", "generate:00"),
        ("00DA01010141", "administer"),
        ("00FE119E0106", "administer"),
        # one thing here, another there
        (authenticate("11", "9C", CHALLENGE), "other"),
        ("00DB3FFF075C035FC1055300", "other"),
        ("00FB000000", "other"),
        ("80E40000024F00", "other"),
    ],
)
@pytest.mark.parametrize("select", ["", FOREIGN])
def test_an_application_that_is_not_known(select: str, command: str, expected: str) -> None:
    assert judged(select, command) == expected


@pytest.mark.parametrize(
    "command",
    [
        "0C20008008313233343536FFFF",  # secure messaging
        "0CCB3FFF035C017E00",
        "04CA006E00",
        "6020008000",
        "B0CA006E00",  # classes that have no meaning
        "20CA006E00",
        "",  # no commands
        "00",
        "00A404",
        "00A4040006A000000308",
        "00A4040005A00000030800FF",
    ],
)
@pytest.mark.parametrize("select", ["", PIV, OPENPGP, PKCS15, GLOBAL_PLATFORM])
def test_what_cannot_be_read_is_uncertain(select: str, command: str) -> None:
    assert judged(select, command) == "other"


def test_no_secret_is_shown() -> None:
    assert "123456" not in repr(Tracker().judge(bytes.fromhex("0020008008313233343536FFFF")))
