"""Scans whose lesions are painted together."""

from evaluation.lesions.painting import run_scans


def test_scans_in_which_nothing_finds_a_place_do_not_pile_up_in_memory():
    begun, done = [], []

    def attempts(number):
        for _ in range(3):
            assert (yield []) == []
        return number

    def scans():
        for number in range(20):
            begun.append(number)
            yield number, attempts(number)

    for number, result in run_scans(None, scans(), batch_size=4):
        done.append(number)
        assert number == result and len(begun) - len(done) < 4
    assert sorted(done) == list(range(20))
