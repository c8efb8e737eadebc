"""Cells unlike those learnt from: found, named by what saw jittered copies, adapted, stored."""

import json

import numpy as np
import pytest

from wbcprof.analysis.classify import TypeClassifier
from wbcprof.analysis.compare import explain_calls
from wbcprof.model.machines import TypeMachines

CENTRES = 3 * np.random.default_rng(7).normal(size=(3, 12))
ASIDE = 9 * np.random.default_rng(8).normal(size=12)


def cells(n, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(3), n)
    return CENTRES[codes] + rng.normal(size=(3 * n, 12)) + shift, codes


@pytest.fixture(scope="module")
def learnt():
    X, y = cells(40, 0)
    rng = np.random.default_rng(1)
    copies = [X + rng.uniform(-1, 1, (len(X), 1)) * ASIDE for _ in range(3)]
    return TypeClassifier().fit(X, np.array(["a", "b", "c"])[y], None, copies)


def test_cells_at_home_are_near_and_others_far(learnt):
    home, away = cells(200, 2)[0], cells(50, 3, shift=ASIDE)[0]
    assert 0.22 < learnt.is_far(home).mean() < 0.38  # three in ten of those left out
    assert learnt.is_far(away).all()


def test_near_cells_are_named_by_what_was_learnt_from_images_alone(learnt):
    X, y = cells(40, 0)
    alone = TypeClassifier().fit(X, np.array(["a", "b", "c"])[y])
    both, _ = cells(30, 4)
    near = ~learnt.is_far(both)
    np.testing.assert_array_equal(
        learnt.decision_function(both)[near], alone.decision_function(both)[near]
    )
    np.testing.assert_array_equal(
        learnt.decision_function(both)[~near], learnt.far_.decision_function(both)[~near]
    )


def test_what_saw_copies_is_right_far_away(learnt):
    X, y = cells(100, 5, shift=ASIDE)
    truth = learnt.classes_[y]
    plain = TypeClassifier().fit(*cells(40, 0))
    assert (learnt.predict(X) == truth).mean() > 0.9
    assert (learnt.predict(X) == truth).mean() > (plain.predict(X) == y).mean() + 0.05


def test_a_laboratory_that_is_far_is_named_by_the_adapted_machines_alone(learnt):
    X, _ = cells(30, 6, shift=ASIDE)
    there, apart = learnt.adapted(X, None)
    assert there.foreign_ and there.is_far(cells(5, 7)[0]).all() and apart > 1
    at_home, apart = learnt.adapted(cells(30, 8)[0], None)
    assert not at_home.foreign_ and apart < 1
    home_again, _ = there.adapted(cells(30, 8)[0], None)  # from the machines as learnt
    assert not home_again.foreign_
    back = there.unadapted()
    new = np.concatenate([cells(9, 9)[0], X])
    np.testing.assert_array_equal(back.decision_function(new), learnt.decision_function(new))


def test_its_own_cells_change_next_to_nothing(learnt):
    own = cells(200, 10)[0]
    same, _ = learnt.adapted(own, None)
    assert (same.predict(own) == learnt.predict(own)).mean() > 0.99


def test_stored_and_read_all_decisions_are_the_same_bits(learnt):
    there, _ = learnt.adapted(cells(30, 6, shift=ASIDE)[0], None)
    new = np.concatenate([cells(9, 9)[0], cells(9, 11, shift=ASIDE)[0]])
    for machines in (learnt, there):
        arrays, document = machines.to_arrays()
        again = TypeMachines.from_arrays(arrays, json.loads(json.dumps(document)))
        np.testing.assert_array_equal(again.predict_proba(new), machines.predict_proba(new))
        np.testing.assert_array_equal(
            again.unadapted().predict_proba(new), learnt.predict_proba(new)
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["far"].update(reach=-1), "reach must be"),
        (lambda d: d["far"].update(foreign="no"), "foreign must be"),
        (lambda d: d["far"]["machines"].update(classes=["a", "b", "d"]), "do not fit"),
    ],
)
def test_a_damaged_document_is_refused(learnt, change, message):
    arrays, document = learnt.to_arrays()
    document = json.loads(json.dumps(document))
    change(document)
    with pytest.raises(ValueError, match=message):
        TypeMachines.from_arrays(arrays, document)


def test_reasons_are_those_of_the_machines_that_decided(learnt):
    new = np.concatenate([cells(9, 9)[0], cells(9, 11, shift=ASIDE)[0]])
    called, _, contribution = explain_calls(learnt, new)
    np.testing.assert_array_equal(learnt.classes_[called], learnt.predict(new))
    far = learnt.is_far(new)
    assert far.any() and not far.all()
    np.testing.assert_array_equal(contribution[far], explain_calls(learnt.far_, new[far])[2])


def test_support_vector_machines_learn_from_all_together():
    X, y = cells(20, 0)
    copies = [X + 0.1]
    together = TypeClassifier(C=1.0, kernel="linear").fit(
        np.concatenate([X, X + 0.1]), np.tile(y, 2), np.tile(np.arange(len(X)), 2)
    )
    machines = TypeClassifier(C=1.0, kernel="linear").fit(X, y, None, copies)
    np.testing.assert_array_equal(machines.coef_, together.coef_)
    assert machines.far_ is None
