"""How settings are declared."""

from __future__ import annotations

import attrs
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.errors import InvalidConfig
from dig_gossip.types.options import (
    about,
    checked,
    choice,
    integer,
    list_of,
    nearest,
    number,
    option,
    options_of,
    prose,
    read_address,
    show,
)


@attrs.frozen(kw_only=True, field_transformer=checked("demo"))
class Demo:
    """A configuration of two settings."""

    size: int = option(3, integer(1, 5), "How\n    many.", unit="things", example=4)
    hidden: float = attrs.field(
        default=1.0,
        converter=float,
        metadata=about("An object.", kind="number", in_file=False),
    )


class DeclarationTests(SynchronousTestCase):
    """A class made of options."""

    def test_errors_carry_table_and_field(self) -> None:
        """A refused value is named by its path.  CFG-102-X"""
        error = self.assertRaises(InvalidConfig, Demo, size=6)
        self.assertEqual(str(error), "demo.size: must be 1 to 5, not 6")

    def test_options_tell_what_they_are(self) -> None:
        """Documentation, range, unit, default and example come from the declaration.  style §7.1"""
        (size,) = options_of(Demo)
        self.assertEqual((size.name, size.doc, size.unit), ("size", "How many.", "things"))
        self.assertEqual((size.kind, size.range), ("whole number", "1 to 5"))
        self.assertEqual((size.default, size.example, size.table), (3, 4, None))

    def test_a_field_without_a_converter_is_a_mistake(self) -> None:
        """No field can forget its check.  CFG-102-X"""
        with self.assertRaises(TypeError):

            @attrs.frozen(field_transformer=checked("demo"))
            class _Unchecked:
                size: int = attrs.field(default=1, metadata=about("Size.", kind="number"))


class WordingTests(SynchronousTestCase):
    """The words of refusals."""

    def test_ranges_read_like_sentences(self) -> None:
        """Open and closed, bounded and unbounded ends differ.  behaviour §2"""
        self.assertEqual(number(0, 1).range, "0 to 1")
        self.assertEqual(number(0, 1, open_ends="<").range, "above 0 and at most 1")
        self.assertEqual(number(0, 1, open_ends="<>").range, "above 0 and below 1")
        self.assertEqual(number(0, 1, open_ends=">").range, "0 to below 1")
        self.assertEqual(number(1).range, "1 or more")
        self.assertEqual(number(0, open_ends="<").range, "above 0")
        self.assertEqual(integer(1, 5, clamp_low=True).range, "1 to 5 (less counts as 1)")

    def test_a_choice_names_its_words(self) -> None:
        """One of a few words, and nothing else.  behaviour §2"""
        rule = choice("one", "two")
        self.assertEqual((rule.read("two"), rule.range), ("two", '"one" or "two"'))
        for wrong in ("three", "", 1, None):
            error = self.assertRaises(ValueError, rule.read, wrong)
            self.assertIn('must be "one" or "two"', str(error))

    def test_a_shown_value_has_at_most_60_characters(self) -> None:
        """Long, huge and endless values are cut.  API-102-X"""
        self.assertEqual(show("x" * 58), repr("x" * 58))
        self.assertEqual(len(show("x" * 59)), 60)
        self.assertEqual(show(10**5000), "a huge int")
        deep: list[object] = []
        for _ in range(100_000):
            deep = [deep]
        self.assertEqual(show(deep), "a huge list")

    def test_an_international_name_is_told_its_other_form(self) -> None:
        """A host name outside ASCII is refused with the way out.  behaviour §2"""
        error = self.assertRaises(ValueError, read_address, "bücher.example:1")
        self.assertIn("xn--", str(error))


class ListTests(SynchronousTestCase):
    """Rules for values of several parts."""

    def test_list_of(self) -> None:
        """Each item by its rule, and as many as may be.  CFG-102-X"""
        rule = list_of(integer(1, 5), 3, least=1)
        self.assertEqual((rule.read([1, 5]), rule.kind), ((1, 5), "list of whole number"))
        for wrong in ([], [1, 2, 3, 4], [6], "12", 1, [[1]]):
            self.assertRaises(ValueError, rule.read, wrong)

    def test_prose(self) -> None:
        """Lines of any script, without what surrounds them.  CFG-102-X"""
        rule = prose(8)
        self.assertEqual(rule.read("\n a\nß \n"), "a\nß")
        for wrong in ("a" * 9, "\0", "\t", 1):
            self.assertRaises(ValueError, rule.read, wrong)

    def test_nearest(self) -> None:
        """A hint, or none.  CFG-102-X"""
        self.assertEqual(nearest("node", ["nodes", "links"]), "; did you mean nodes?")
        self.assertEqual(nearest("x", ["nodes"]), "")
