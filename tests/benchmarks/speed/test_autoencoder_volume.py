"""A volume through the autoencoder in tiles."""

from benchmarks.speed import autoencoder_volume


def test_a_volume_of_unequal_sides_goes_through_in_tiles_and_in_one_piece(capsys):
    for in_one_piece in (False, True):
        autoencoder_volume.main(
            autoencoder_volume.Config(shape=(24, 32, 40), tile_cells=4, in_one_piece=in_one_piece, threads=1)
        )
    printed = capsys.readouterr().out
    assert printed.count("(24, 32, 40), tiny, ") == 2
    assert "tiles of 4 cells" in printed and "in one piece" in printed and printed.count("GiB, of which") == 2
