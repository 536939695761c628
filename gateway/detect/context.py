"""Words that say what a number is, and the text beside them.

A check digit alone says little: one of eleven order numbers passes for an individual number. So some numbers
count only beside such a word.
"""

import re

from gateway.detect.engine import Finder, Pattern, Span

# A text with more words than that is about nothing else: all of it counts as beside one.
MOST_WORDS = 1_000
_LONGEST_NUMBER = 32
_DIGITS = frozenset(b"0123456789")

# Fold writes a long vowel mark as a dash, and the text may not have been folded. Half-width kana too.
_VOWEL = r"[ー\x{ff70}\-]"
_CARD = (
    r"(?:^|[^a-z])(?:cards?|charg(?:e|ed|ing)|pay(?:ing|ment)?|visa|mastercard|maestro|amex|jcb|cv[vc]2?|"
    r"unionpay|diners|kart(?:e|en|a|y|u|i)?|carte|carta|tarjeta|kaart)(?:$|[^a-z])|"
    r"(?:credit|debit|bank)_?card|card_?(?:no|num|holder)|american express|karten|kreditkart|kortnummer|"
    r"cart(?:a|ã)o|primary account number"
)
_CARD_OF_THE_WORLD = (
    rf"カ{_VOWEL}ド|ｶ{_VOWEL}ﾄ|クレカ|決済|支払|卡号|卡號|信用卡|银行卡|銀行卡|借记卡|储蓄卡|银联|카드|결제|"
    r"карт|بطاق|कार\x{94d}?ड"
)
_MY_NUMBER = (
    r"my[ _\-]?number|(?:individual|personal)[ _\-]?number|national[ _\-]?id|kojin[ _\-]?bango|"
    rf"マイナンバ{_VOWEL}?|ﾏｲﾅﾝﾊ|マイ・?ナンバ|個人番号|個人ナンバ|個人識別番号|マイナ番号|マイナカ|通知カ{_VOWEL}ド|特定個人情報|"
    r"个人编号|个人番号|個人編號|마이넘버|마이 넘버|개인번호"
)


class NumberWords:
    """Words of one kind, and how far from them a number may stand, in bytes: most of it after the word.

    Before the word it has to stand on the same line: what ends there may be the message of somebody else.
    """

    __slots__ = ("_after", "_before", "_finder", "_pattern")

    def __init__(self, expression: str, *, before: int, after: int) -> None:
        self._pattern = Pattern(expression)
        self._finder = Finder(expression)
        self._before = before
        self._after = after

    def beside(self, text: bytes) -> bytes:
        """What of `text` stands beside one of the words, a line for each place; b"" without a word.

        No number is cut.
        """
        if not self._pattern.occurs_in(text):
            return b""
        places: list[Span] = []
        for count, (start, end) in enumerate(self._finder.spans(text)):
            if count == MOST_WORDS:
                return text
            first = max(start - self._before, 0)
            first = max(first, text.rfind(b"\n", first, start) + 1)
            last = end + self._after
            if places and first <= places[-1][1]:
                places[-1] = (places[-1][0], last)
            else:
                places.append((first, last))
        return b"\n".join(
            text[_without_cut(text, first, -1) : _without_cut(text, last, 1)] for first, last in places
        )


def _without_cut(text: bytes, at: int, step: int) -> int:
    """`at`, or where the number that it stands in begins (`step` -1) or ends (1)."""
    at = min(at, len(text))
    for _ in range(_LONGEST_NUMBER):
        if not (0 < at < len(text) and text[at] in _DIGITS and text[at - 1] in _DIGITS):
            break
        at += step
    return at


CARD_WORDS = NumberWords(rf"(?i:{_CARD}|{_CARD_OF_THE_WORLD})|\bPAN\b", before=64, after=160)
MY_NUMBER_WORDS = NumberWords(f"(?i:{_MY_NUMBER})", before=120, after=480)
SSN_WORD = (
    r"(?i:ssn|ss#|social[ _\-]?security|soc\.? ?sec\.?|tax(?:payer)?[ _\-]?(?:id|identification)|itin\b|"
    r"\bw-?[249]\b|seguro social|社会保障番号|社会保障号|社会安全号)"
)
SSN_WORDS = NumberWords(SSN_WORD, before=120, after=480)

# A label that says that a number is something else, and the number in its groups.
_OTHER_LABEL = (
    r"(?i:(?:tracking|order|invoice|waybill|shipment|parcel|serial|reference|ticket|booking)"
    r"(?:[ _\-]?(?:number|no|num|id|code))?|伝票番号|問い?合わ?せ番号|追跡番号|送り状(?:番号)?|"
    r"注文番号|受注番号|請求書番号|予約番号|受付番号|管理番号|订单号|快递单号|運單號|주문번호|송장번호)"
    r"[\s:#=.\"'は]{0,6}"
)
_GROUPS = r"[0-9]{4}[ .\-][0-9]{4}[ .\-][0-9]{4}"
_LABELLED_OTHERWISE = re.compile(f"{_OTHER_LABEL}{_GROUPS}(?![0-9])".encode())
_MAYBE_LABELLED = Pattern(_OTHER_LABEL + "[0-9]")


def without_labelled_groups(text: bytes) -> bytes:
    """`text` without numbers in groups of four that a label calls an order, a parcel or the like."""
    return _LABELLED_OTHERWISE.sub(b"x", text) if _MAYBE_LABELLED.occurs_in(text) else text
