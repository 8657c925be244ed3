"""The error tree: one stable code for each class."""

from blockcloud.primitives import errors


def tree(cls: type) -> list[type]:
    return [cls, *(below for child in cls.__subclasses__() for below in tree(child))]


def test_codes_are_unique_and_every_class_says_what_it_means() -> None:
    classes = [cls for cls in tree(errors.BlockCloudError) if cls.__module__ == errors.__name__]
    codes = [cls.code for cls in classes]
    assert len(set(codes)) == len(codes), sorted(code for code in codes if codes.count(code) > 1)
    assert all(cls.__doc__ for cls in classes)


def test_a_message_shows_its_values_and_falls_back_to_the_docstring() -> None:
    assert str(errors.Oversized("too big", bytes=5)) == "too big (bytes=5)"
    assert "larger than its limit" in str(errors.Oversized())
    assert errors.Busy(retry_after_ms=20).retry_after_ms == 20
