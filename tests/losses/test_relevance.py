import torch
from torch.nn.functional import normalize

from m2ib_lightning.losses import LossTerm, Relevance, relevance


def test_relevance_is_the_mean_cosine_over_samples():
    embedding = torch.tensor([[[3.0, 4.0]], [[0.0, 2.0]]])
    target = torch.tensor([[1.0, 0.0]])
    # cosines 3/5 and 0
    torch.testing.assert_close(relevance(embedding, target), torch.tensor([0.3]))


def test_relevance_grows_with_the_length_of_its_target_and_not_with_that_of_the_embedding():
    embedding, target = torch.randn(3, 4, 8), torch.randn(4, 8)
    torch.testing.assert_close(relevance(7 * embedding, 0.5 * target), 0.5 * relevance(embedding, target))


def test_relevance_agrees_with_scikit_learn():
    from sklearn.metrics.pairwise import cosine_similarity

    embedding, other = torch.randn(3, 4, 8), torch.randn(4, 8)
    expected = [cosine_similarity(embedding[:, b].numpy(), other[b : b + 1].numpy()).mean() for b in range(4)]
    torch.testing.assert_close(relevance(embedding, normalize(other, dim=-1)), torch.tensor(expected))


def test_relevance_is_maximised():
    assert Relevance.maximised and not Relevance.weighed_by_beta


def test_a_term_is_logged_by_its_class_unless_it_has_a_name():
    class Sparsity(LossTerm):
        pass

    class Other(LossTerm):
        name = "mine"

    assert (Sparsity.name, Other.name) == ("sparsity", "mine")
    assert not Sparsity.maximised and not Sparsity.weighed_by_beta
