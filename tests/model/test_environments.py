import numpy as np

from physcon_ase.model.environments import EnvironmentTable, environment_tensors


def test_counts_are_those_of_the_table_and_0_for_others():
    tensors = environment_tensors({7: 3, -(2**62): 1, 2**62: 9})
    table = EnvironmentTable(3)
    table.load_state_dict(tensors)
    wanted = np.array([2**62, 8, 7, -(2**63), 2**63 - 1, -(2**62)])
    assert table.n_molecules(wanted).tolist() == [9, 0, 3, 0, 0, 1]
