import numpy as np
import pytest
import torch

from physcon_ase.model.layers import make_pairs, pair_products
from tests.tiny import ETHANOL, ETHANOL_NUMBERS, pack, tiny_model

ROUNDING = 1e-12
"""float64."""


def test_the_pair_basis_is_zero_for_padding_and_beyond_the_cutoff() -> None:
    model = tiny_model()
    batch = pack(model, [(np.array([6, 6, 6]), np.array([[0.0, 0, 0], [1.5, 0, 0], [5.5, 0, 0]]))], n_slots=4)
    basis = pair_products(*model.encoder.pair_functions(make_pairs(batch, None)))
    reached = (basis[0] != 0).any(dim=1)
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[0, 1] = expected[1, 0] = expected[1, 2] = expected[2, 1] = True
    assert torch.equal(reached, expected)


def test_the_pair_basis_is_monomials_times_radial_functions() -> None:
    model = tiny_model()
    pairs = make_pairs(pack(model, [(ETHANOL_NUMBERS, ETHANOL)]), None)
    basis = pair_products(*model.encoder.pair_functions(pairs))[0]
    n_radial = model.config.encoder.n_radial
    unit = (ETHANOL[3] - ETHANOL[0]) / np.linalg.norm(ETHANOL[3] - ETHANOL[0])
    radial, along_x = basis[0, :n_radial, 3], basis[0, n_radial : 2 * n_radial, 3]
    torch.testing.assert_close(along_x, radial * unit[0], rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("source_vectors", [0, 4])
def test_information_travels_as_many_cutoffs_as_there_are_layers(source_vectors: int) -> None:
    model = tiny_model(source_vectors)
    chain = np.zeros((4, 3))
    chain[:, 0] = [0, 3, 6, 9]

    def features(shift: float) -> torch.Tensor:
        moved = chain.copy()
        moved[3, 1] = shift
        batch = pack(model, [(np.array([6, 6, 6, 6]), moved)])
        return model.encoder(batch, make_pairs(batch, None))[0][0]

    change = (features(0.5) - features(0.0)).abs().amax(dim=1)
    assert change[0] < ROUNDING
    assert (change[1:] > 1e-8).all()


def test_vectors_add_information_that_scalars_do_not_send() -> None:
    scalar, vector = tiny_model(0).encoder, tiny_model(4).encoder
    assert [layer.received_vectors for layer in scalar.interactions] == [0, 0]
    assert [layer.received_vectors for layer in vector.interactions] == [0, 4]
    assert [layer.send_vectors is not None for layer in vector.interactions] == [True, False]
