from m2ib_lightning.printable import printable


def test_what_steers_a_terminal_is_written_out_and_all_else_stays():
    steering = (
        "\x00\x08\x0b\r\x1b\x1f\x7f\x80\x9b\x9f\u061c\u200e\u200f\u202a\u202e\u2066\u2069\u2028\u2029\ud800\udfff"
    )
    assert printable(steering) == (
        r"\x00\x08\x0b\x0d\x1b\x1f\x7f\x80\x9b\x9f\u061c\u200e\u200f\u202a\u202e\u2066\u2069\u2028\u2029\ud800\udfff"
    )
    plain = "\t\n ~\xa0\xff\u0100\u061b\u061d שלום 猫\u200d\u2027\u202f\u2065\u206a\ud7ff\ue000\U0001f408"
    assert printable(plain) == plain


def test_steering_characters_are_those_that_unicode_calls_controls_turners_and_line_ends():
    import unicodedata

    def steers(character: str) -> bool:
        kind, turns = unicodedata.category(character), unicodedata.bidirectional(character)
        marks = (
            turns in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
            or character in "\u061c\u200e\u200f"
        )
        return (kind in ("Cc", "Zl", "Zp", "Cs") and character not in "\t\n") or marks

    everything = [chr(code) for code in range(0x3000)] + [chr(code) for code in range(0xD7F0, 0xE010)]
    for character in everything:
        assert (printable(character) != character) is steers(character), hex(ord(character))
