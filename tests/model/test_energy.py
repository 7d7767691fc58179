import numpy as np
import pytest
import torch

from physcon_ase.model.pairs import make_pairs, pair_products
from tests.tiny import ETHANOL, ETHANOL_NUMBERS, pack, tiny_model

ROUNDING = 1e-12
"""float64."""


def test_the_pair_basis_is_zero_for_padding_and_beyond_the_cutoff() -> None:
    model = tiny_model()
    batch = pack(model, [(np.array([6, 6, 6]), np.array([[0.0, 0, 0], [1.5, 0, 0], [5.5, 0, 0]]))], n_slots=4)
    basis = pair_products(*model.energy.pair_functions(make_pairs(batch, None)))
    reached = (basis[0] != 0).any(dim=1)
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[0, 1] = expected[1, 0] = expected[1, 2] = expected[2, 1] = True
    assert torch.equal(reached, expected)


def test_the_pair_basis_is_monomials_times_radial_functions() -> None:
    model = tiny_model()
    pairs = make_pairs(pack(model, [(ETHANOL_NUMBERS, ETHANOL)]), None)
    basis = pair_products(*model.energy.pair_functions(pairs))[0]
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
        return model.evaluate(batch, "cheap").features[0]

    change = (features(0.5) - features(0.0)).abs().amax(dim=1)
    assert change[0] < ROUNDING
    assert (change[1:] > 1e-8).all()


def test_vectors_add_information_that_scalars_do_not_send() -> None:
    scalar, vector = tiny_model(0).energy, tiny_model(4).energy
    assert [layer.received_vectors for layer in scalar.interactions] == [0, 0]
    assert [layer.received_vectors for layer in vector.interactions] == [0, 4]
    assert [layer.send_vectors is not None for layer in vector.interactions] == [True, False]


def test_a_level_is_a_row_and_a_head() -> None:
    model = tiny_model(4)
    of_cheap = {name for name, _ in model.energy.named_parameters() if ".cheap." in name}
    assert of_cheap == {
        "rows.cheap.weight",
        *(f"heads.cheap.network.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")),
    }
    batch = pack(model, [(ETHANOL_NUMBERS, ETHANOL)])
    before = {level: model.energies(batch, level) for level in ("cheap", "dft")}
    with torch.no_grad():
        for name in of_cheap:
            model.energy.get_parameter(name).mul_(1.5)
    assert abs(float(model.energies(batch, "cheap") - before["cheap"])) > 1e-3
    assert torch.equal(model.energies(batch, "dft"), before["dft"])


def test_levels_without_rows_share_their_features() -> None:
    model = tiny_model(4)
    with torch.no_grad():
        for rows in model.energy.rows.values():
            rows.weight.zero_()
        model.energy.heads["dft"].load_state_dict(model.energy.heads["cheap"].state_dict())
    batch = pack(model, [(ETHANOL_NUMBERS, ETHANOL)])
    features = [model.evaluate(batch, level).features for level in ("cheap", "dft")]
    assert torch.equal(*features)
