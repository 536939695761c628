"""What each detector finds and what it leaves alone.

Every number is a published example; every credential is made up.
"""

import pytest

from gateway.detect import DETECTOR_NAMES, Detectors
from gateway.detect.checksums import ean13_holds, iban_holds, luhn_holds, my_number_holds

ALL = Detectors(DETECTOR_NAMES)


def found(*pieces: str) -> set[str]:
    return set(ALL.scan(pieces))


CARDS = (
    "4111111111111111",
    "4012888888881881",
    "4222222222222",
    "5555555555554444",
    "5105105105105100",
    "2223003122003222",
    "378282246310005",
    "371449635398431",
    "6011111111111117",
    "3530111333300000",
    "30569309025904",
    "38520000023237",
    "6200000000000005",
    "6304000000000000",
    "2200000000000004",
    "4000000000000000006",
)
WRITTEN_CARDS = (
    "4111 1111 1111 1111",
    "4111-1111-1111-1111",
    "4111.1111.1111.1111",
    "4111 - 1111 - 1111 - 1111",
    "3782 822463 10005",
    "3056 930902 5904",
    "411111 1111111111",
    "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
    "card:4111111111111111,exp 12/29",
    "2026-11-01 4111 1111 1111 1111 12/29",
    "4111 1111 1111 1111 1229",
    "2026 4111 1111 1111 1111",
    "ref4111111111111111x",
    "card ref0014111111111111111x",
    "カード番号 0004111111111111111",
    "00 4111 1111 1111 1111",
    "004111-1111-1111-1111",
    "4222 2222 2222 2",
    "６２１２３４５６７８９０１２３４５６９",
    "００４１１１１１１１１１１１１１１１",
    "4111\u00a01111\u20091111\u30001111",
    "4111\u20101111\u20131111\u22121111",
    "4111ー1111ー1111ー1111",
    "4\u200b111111\u00ad111\ufeff11111\u200d1",
    "4\ufe0f\u20e31\ufe0f\u20e31111111\ufe0f1111111",
    "٤١١١١١١١١١١١١١١١",
    "४१११११११११११११११",
    "𝟒𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏",
    r"\uff14\uff11111111 1111 1111",
)


@pytest.mark.parametrize("text", CARDS + WRITTEN_CARDS)
def test_card_numbers_are_found(text: str) -> None:
    assert found(f"Please charge {text} today") == {"credit_card"}


@pytest.mark.parametrize(
    "text",
    [
        "4111111111111112",
        "4111 1111 1111 1112",
        "9111111111111111",
        "1234567890123456",
        "411111111111111",
        "4901234567894",  # a JAN barcode that also passes Luhn's test would be no card either
        "64111 1111 1111 11116",
        "1234 4111 1111 1111 1111 1234",
        "550e8400-e29b-41d4-4111-111111111111",
        "0.4111111111111111",
        "35.4111111111111111",
        "1767225604111111111",
        "9e107d9d372bb6826bd81d354111111111111111",
        "0x9e107d9D372bb6826bd81d354111111111111111",
        "0004111111111111111",
        "4222222222222",  # thirteen digits, and no word for it
        "4000000000000000006",
        "5018000000000000015",
    ],
)
def test_other_numbers_are_not_cards(text: str) -> None:
    assert found(f"see {text} here") == set()


@pytest.mark.parametrize("card", ["4222222222222", "4000000000000000006", "0004111111111111111"])
def test_a_number_that_is_an_id_more_often_is_a_card_beside_a_word_for_it(card: str) -> None:
    assert found(f"{card} is the number of my card") == {"credit_card"}
    assert found(f"クレジットカード：{card}") == {"credit_card"}
    assert found(f"信用卡号 {card}") == {"credit_card"}
    assert found("Your card, please?", card) == {"credit_card"}
    assert found(f'{{"card_number": "{card}"}}') == {"credit_card"}
    assert found(f"Never ask for a card. {'All is well. ' * 20} {card}") == set()
    assert found(f"discards {card} and postcards") == set()


def test_a_text_of_nothing_but_words_for_cards_is_about_cards() -> None:
    assert found("card, " * 2_000 + "and so on " * 1_000 + "4222222222222") == {"credit_card"}


REGISTRY_EXAMPLES = """
AD1200012030200359100100
AE070331234567890123456
AL47212110090000000235698741 AT611904300234573201
AZ21NABZ00000000137010001944 BA391290079401028494 BE68539007547034 BG80BNBG96611020345678
BH67BMAG00001299123456 BI4210000100010000332045181 BR1800360305000010009795493C1
BY13NBRB3600900000002Z00AB00
CH9300762011623852957 CR05015202001026284066 CY17002001280000001200527600 CZ6508000000192000145399
DE89370400440532013000 DJ2100010000000154000100186 DK5000400440116243 DO28BAGR00000001212453611324
EE382200221020145685 EG380019000500000000263180002 ES9121000418450200051332 FI2112345600000785
FK88SC123456789012 FO6264600001631634 FR1420041010050500013M02606 GB82WEST12345698765432
GE29NB0000000101904917
GI75NWBK000000007099453 GL8964710001000206 GR1601101250000000012300695 GT82TRAJ01020000001210029690
HR1210010051863000160 HU42117730161111101800000000 IE29AIBK93115212345678 IL620108000000099999999
IQ98NBIQ850123456789012 IS140159260076545510730339 IT60X0542811101000000123456
JO94CBJO0010000000000131000302 KW81CBKU0000000000001234560101 KZ86125KZT5004100100
LB62099900000001001901229114 LC55HEMM000100010012001200023015 LI21088100002324013AA LT121000011101001000
LU280019400644750000 LV80BANK0000435195001 LY83002048000020100120361 MC5811222000010123456789030
MD24AG000225100013104168 ME25505000012345678951 MK07250120000058984 MN121234123456789123
MR1300020001010000123456753 MT84MALT011000012345MTLCAST001S MU17BOMM0101101030300200000MUR
NI45BAPR00000013000003558124 NL91ABNA0417164300 NO9386011117947 PK36SCBL0000001123456702
PL61109010140000071219812874 PS92PALS000000000400123456702 PT50000201231234567890154
QA58DOHB00001234567890ABCDEFG RO49AAAA1B31007593840000 RS35260005601001611379
RU0304452522540817810538091310419 SA0380000000608010167519 SC18SSCB11010000000000001497USD
SD2129010501234001 SE4550000000058398257466 SI56263300012039086 SK3112000000198742637541
SM86U0322509800000000270100 SO211000001001000100141 ST23000100010051845310146 SV62CENR00000000000000700025
TL380080012345678910157 TN5910006035183598478831 TR330006100519786457841326 UA213223130000026007233566001
VA59001123000012345678 VG96VPVG0000012345678901 XK051212012345678906
"""
IBANS = REGISTRY_EXAMPLES.split()


@pytest.mark.parametrize("iban", IBANS)
def test_every_country_of_the_registry_is_found(iban: str) -> None:
    """The examples of SWIFT's IBAN Registry, in one go and in groups of four."""
    assert iban_holds(iban.encode())
    assert "iban" in found(f"to {iban}.")
    assert "iban" in found("to " + " ".join(iban[i : i + 4] for i in range(0, len(iban), 4)))
    assert "iban" in found(f"iban={iban.lower()}&x")


@pytest.mark.parametrize(
    "text",
    ["GB82WEST12345698765433", "ZZ82WEST12345698765432", "DE8937040044053201300", "GB82123412345698765432"],
)
def test_other_account_numbers_are_not_ibans(text: str) -> None:
    assert "iban" not in found(text)


@pytest.mark.parametrize(
    "text",
    [
        "個人番号は123456789018です",
        "マイナンバー：１２３４５６７８９０１８",
        "ﾏｲﾅﾝﾊﾞｰ:123456789018",
        "個人番号 １２３４－５６７８－９０１８",
        "個人番号 1234 5678 9018",
        "the individual number 1234-5678-9018",
        "my number:123456789018, thanks",
        "name,my_number\nTanaka,123456789018\n",
        '{"myNumber": "123456789018"}',
        "tracking number of the parcel; my number is 1234-5678-9018",
    ],
)
def test_individual_numbers_are_found(text: str) -> None:
    assert found(text) == {"jp_my_number"}


@pytest.mark.parametrize(
    "text",
    [
        "123456789018",  # twelve digits are an order or an account more often
        "1234 5678 9018",
        "account number 1234-5678-9018",
        "１２３４５６７８９０１８",
        "個人番号は別紙のとおりです。" + "ご注文の内容をご確認ください。" * 15 + "123456789018",
        "お問い合わせ番号：1234-5678-9018",
        "tracking no. 1234-5678-9018",
        "Order 1234 5678 9018 has left",
        "個人番号は123456789012です",
        "1234 5678 9012",
        "000000000000",
        "0123456789018",
        "1234567890180",
        "+123456789018",
        "550e8400-e29b-41d4-a716-123456789018",
        "0.123456789018",
        "a123456789018",
        "1234-5678-9018-1234",
        "2026 2027 2028 and 2024 2025 2026 and 2021 2022 2023",
        *(f"20261101103{minute}" for minute in range(10)),
    ],
)
def test_other_twelve_digits_are_not_individual_numbers(text: str) -> None:
    assert found(text) == set()


def test_check_digit_of_individual_numbers_follows_the_ordinance() -> None:
    for body in (b"12345678901", b"00000000000", b"99999999999", b"02345678901", b"31415926535"):
        # P_n counts from the right, Q_n is n + 1 up to six and n - 5 above.
        total = sum(
            digit * (n + 1 if n <= 6 else n - 5)
            for n, digit in enumerate(map(int, reversed(body.decode())), 1)
        )
        check = 0 if total % 11 <= 1 else 11 - total % 11
        accepted = [digit for digit in range(10) if my_number_holds(body + b"%d" % digit)]
        assert accepted == [check]


@pytest.mark.parametrize(
    "text",
    [
        "My SSN is 123-45-6789.",
        "name,ssn\nSmith,123-45-6789",
        "taxpayer id 123.45.6789",
        "SSN 123 45 6789",
        "123-45-6789 is my social security number",
        "ＳＳＮ １２３−４５−６７８９",
        "ssn 123\u201145\u20116789",
        "ssn=123456789",
        '{"ssn": "123456789"}',
        "name,SSN\nSmith,123456789",
        "Social Security Number: 123456789",
        "123456789 (SSN)",
    ],
)
def test_social_security_numbers_are_found(text: str) -> None:
    assert found(text) == {"us_ssn"}


@pytest.mark.parametrize(
    "text",
    [
        "000-45-6789",
        "666-45-6789",
        "900-45-6789",
        "999-45-6789",
        "123-00-6789",
        "123-45-0000",
        "123-45.6789",
        "SSN 1123-45-6789",
        "SSN 123-45-67890",
        "SSN 123-45-6789-1",
        "123-45-6789",  # a part number has this form as well
        "100 123 45 6789 100",
        "123456789",
        "ssn=000456789",
        "call 555-123-4567",
    ],
)
def test_other_numbers_are_not_social_security_numbers(text: str) -> None:
    assert found(text) == set()


@pytest.mark.parametrize(
    "text",
    [
        "bob@example.com",
        "<bob.o'neil+news@mail.example.co.uk>",
        "mailto:bob@example.com?subject=x",
        "bob＠example．com",
        "ｂｏｂ@ｅｘａｍｐｌｅ.ｃｏｍ",
        "b\u200bob@exa\u00admple.com",
        r"{\"to\": \"bob\u0040example.com\"}",
        "https://example.com/?to=bob%40example.com",
        "bob&#64;example.com",
        "田中@例え.jp",
        "連絡先はbob@example.comです",
        "legit@example.com",
        "t@example.com",
        "git.bob@example.com",
    ],
)
def test_email_addresses_are_found(text: str) -> None:
    assert found(text) == {"email"}


@pytest.mark.parametrize(
    "text",
    [
        "git@github.com:acme/app.git",
        "ssh://git@git.example.com/app",
        "@app.route('/')",
        "npm install lodash@4.17.21 @types/node@20.1.0",
        "follow @tanaka.san",
        "https://medium.com/@someone/post.html",
        "meet @ example.com",
        "user@localhost",
        "C = A@B",
        "image@sha256:0123456789abcdef",
    ],
)
def test_other_uses_of_the_at_sign_are_not_addresses(text: str) -> None:
    assert found(text) == set()


FAKE = "FAKEfake0000FAKEfake0000FAKEfake0000FAKE"
SECRETS = (
    f"sk-{FAKE}",
    f"sk-proj-{FAKE}",
    "AKIAIOSFODNN7EXAMPLE",
    "ASIAFAKEFAKEFAKEFAKE",
    f"ghp_{FAKE[:36]}",
    f"gho_{FAKE[:36]}",
    f"ghs_{FAKE[:36]}",
    f"github_pat_{FAKE[:22]}_{FAKE}",
    "xoxb-000000000000-FAKEfakeFAKE",
    "xoxp-000000000000-FAKEfakeFAKE",
    f"AIza{FAKE[:35]}",
    f"sk_live_{FAKE[:24]}",
    f"rk_live_{FAKE[:24]}",
    "-----BEGIN PRIVATE KEY-----\nFAKE",
    "-----BEGIN RSA PRIVATE KEY-----\nFAKE",
    "-----BEGIN OPENSSH PRIVATE KEY-----\nFAKE",
    "-----BEGIN EC PRIVATE KEY-----\nFAKE",
    f"eyJGQUtFIjoiRkFLRSJ9.eyJGQUtFIjoiRkFLRSJ9.{FAKE}",
    "password=fake0fake0fake0fake0",
    "api_key: 'fake0fake0fake0fake0'",
    '{"api_key": "fake0fake0fake0fake0"}',
    r"{\"client_secret\": \"0fake0fake0fake0fake\"}",
    f"AWS_SECRET_ACCESS_KEY=FAKE/{FAKE[:35]}",
    "Authorization: Bearer fake0fake0fake0fake0",
    "パスワード password：fake0fake0fake0fake0",
    f"ｓｋ-{FAKE}",
    f"s\u200bk-{FAKE}",
)


@pytest.mark.parametrize("text", SECRETS)
def test_credentials_are_found(text: str) -> None:
    assert found(f"use {text} for it") == {"secret"}


@pytest.mark.parametrize(
    "text",
    [
        "sk-1234",
        "task-management-system-for-teams",
        "risk-adjusted-return-on-capital",
        "the AKIA prefix and the ASIA region",
        "ghp_short",
        "-----BEGIN CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----",
        "eyJ.eyJ.eyJ",
        "password: hunter2",
        "password=os.environ['DATABASE_PASSWORD_1']",
        "token = request.headers.get_authorization",
        "max_tokens: 4096, token_count=1234567890123456",
        "password: ${DB_PASSWORD_1}",
        "secret: 1234567890123456",
        "the key: understanding_of_the_whole",
    ],
)
def test_other_words_are_not_credentials(text: str) -> None:
    assert found(text) == set()


BENIGN = (
    "Total $1,299.00, 12.5% off, 3 x €45.90 = €137.70; SKU 0012345; invoice 2026-000123.",
    "2026-11-01T10:30:00.123456Z 2026-11-01 10:30:00+09:00 1 Nov 2026 10:30 GMT 1793500200 1793500200123",
    "+1 415-555-1234, (415) 555-1234, 415.555.1234, +44 20 7946 0958",
    "03-1234-5678, 090-1234-5678, +81 90 1234 5678",
    "550e8400-e29b-41d4-a716-446655440000 6ba7b810-9dad-11d1-80b4-00c04fd430c8",
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 d41d8cd98f00b204e9800998ecf8427e",
    "10.0.0.1 192.168.1.254:8080 2001:db8::1 v1.2.3-rc.4 1.25.0",
    "def f(x: int) -> str:\n    return f'{x:>10}' if x != 0 else '-'\n@dataclass\nclass A: pass",
    "SELECT id, total FROM orders WHERE id IN (1001, 1002, 1003) AND created_at > '2026-01-01';",
    "[0.123456789, -0.987654321, 1e-07, 3.141592653589793, 2.718281828459045]",
    "1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597",
    "12 45 78 23 11 90 34 56 71 82 19 20 33 47 58 62 75 81",
    "お世話になっております。来月の会議（１０月３日）について、資料を確認。合計は３，９８０円です。",
    "〒100-8111 東京都千代田区千代田1-1 電話03-1234-5678 JANコード4901234567894 注文番号20261101-0001",
    "Numéro 12 bis — « très bien » … 50 % ½ ² ™ ® 👍🏽 ❤️ 1️⃣",
    "latitude 35.6894875 longitude 139.6917064, 1,234,567.89 and 1 234 567,89",
    "UTF-8 SHA256 MP3 H264 GB18030 DE12 AT20 IT2026 NO1",
)


@pytest.mark.parametrize("text", BENIGN)
def test_ordinary_text_holds_nothing(text: str) -> None:
    assert found(text) == set()
    assert found(text, text) == set()
    assert found("".join(BENIGN)) == set()


def test_lists_of_floats_and_times_hold_nothing() -> None:
    floats = ", ".join(repr(1 / n) for n in range(2, 2_000))
    nanoseconds = "\n".join(str(1_793_500_200_123_456_789 + n * 7_919_000_001) for n in range(500))
    milliseconds = " ".join(str(1_793_500_200_123 + n * 60_001) for n in range(500))
    for text in (floats, nanoseconds, milliseconds):
        assert found(text) == set()


@pytest.mark.parametrize(
    "value", ["4111111111111111", "bob@example.com", "GB82WEST12345698765432", "SSN 123-45-6789"]
)
def test_a_value_split_at_any_place_is_found(value: str) -> None:
    whole = found(value)
    for cut in range(1, len(value)):
        assert found(f"here: {value[:cut]}", f"{value[cut:]} - thanks") >= whole
    assert found("here: ", *value, " - thanks") >= whole


def test_what_surrounds_a_piece_does_not_hide_it() -> None:
    assert "credit_card" in found("in 2026", "4111111111111111", "17 times")
    assert "jp_my_number" in found("個人番号", "in 2026", "123456789018", "17 times")
    assert "us_ssn" in found("SSN", "1", "123-45-6789", "1")
    assert "secret" in found("mine", f"sk-{FAKE}", "thanks")


def test_a_value_split_between_two_long_pieces_is_found() -> None:
    filler = "lorem ipsum " * 5_000
    assert found(f"{filler}4111 1111", f" 1111 1111{filler}") == {"credit_card"}
    assert found(f"{filler}bob@exam", f"ple.com {filler}") == {"email"}


def test_only_the_enabled_detectors_answer() -> None:
    text = "bob@example.com 4111111111111111"
    assert Detectors(("email",)).scan([text]) == {"email"}
    assert Detectors(("credit_card", "iban")).scan([text]) == {"credit_card"}
    assert Detectors(()).scan([text]) == frozenset()
    assert Detectors(("iban", "email", "iban")).names == ("iban", "email")


def test_an_unknown_name_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(ValueError, match="unknown detector 'e-mail': did you mean 'email'"):
        Detectors(("e-mail",))
    with pytest.raises(ValueError, match="known are email, credit_card"):
        Detectors(("zzz",))


def test_nothing_and_half_surrogates_are_read_without_error() -> None:
    assert found() == set()
    assert found("") == set()
    assert found("\ud83d bob@example.com", "\udc00") == {"email"}
    assert found(r"\ud83d bob\u0040example.com") == {"email"}


def test_a_backslash_before_digits_is_no_escape_that_hides_them() -> None:
    assert found(r"C:\u4111 1111 1111 1111") == {"credit_card"}


def test_published_check_digits() -> None:
    assert all(luhn_holds(card.encode()) for card in CARDS)
    assert ean13_holds(b"4901234567894")
    assert not ean13_holds(b"4222222222222")
