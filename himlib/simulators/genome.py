r"""Genotypes under three population structures, traits with a confounder, and interventions on simulators."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from himlib._checks import check_counts
from himlib.random import check_key

__all__ = [
    "STRUCTURES",
    "CausalModel",
    "Study",
    "balding_nichols",
    "linear_trait",
    "simulate_study",
    "spread_trait",
]

#: Population structures of :func:`simulate_study`.
STRUCTURES = ("islands", "admixed", "spatial")
RAREST = 0.05  # an allele rarer than this among the people leaves its SNP out


@dataclass(frozen=True)
class CausalModel:
    r"""A simulator written as assignments, one for each variable, in the order in which they happen.

    .. math:: v_i := f_i(v_1, \dots, v_{i-1}, \epsilon_i), \qquad
              do(v_i = a): \quad v_i := a, \text{ all other assignments as they are}

    (Pearl 2009). The noise :math:`\epsilon_i` belongs to the assignment's place: with one key, a model and
    its edit draw the same noise, so that their difference is the effect of the edit on the same people.

    Parameters
    ----------
    assignments
        For each name a function ``f(key, values)``: ``values`` is a dictionary of all variables before it,
        and the result is an array. Written for one person.

    Raises
    ------
    ValueError
        If there is no assignment, or :meth:`do` sets a variable that the model has not.

    Examples
    --------
    >>> import jax
    >>> model = CausalModel({
    ...     "x": lambda key, v: jax.random.normal(key),
    ...     "y": lambda key, v: 2 * v["x"] + jax.random.normal(key),
    ... })
    >>> key = jax.random.key(0)
    >>> effect = model.do(x=1.0).sample(key, 3)["y"] - model.do(x=0.0).sample(key, 3)["y"]
    >>> print(effect.round(4))
    [2. 2. 2.]
    """

    assignments: Mapping[str, Callable[[jax.Array, dict[str, Any]], Any]]

    def __post_init__(self):
        if not self.assignments:
            raise ValueError("assignments: expected at least one, got none.")

    def do(self, **values: Any) -> "CausalModel":
        """Replace assignments by values: the edit that an intervention is.

        Parameters
        ----------
        values
            For each variable that is set, what it is set to: a number or an array.

        Returns
        -------
        CausalModel
            With the other assignments as they were.
        """
        unknown = sorted(values.keys() - self.assignments.keys())
        if unknown:
            known = ", ".join(self.assignments)
            raise ValueError(f"do: expected variables among {known}; got {', '.join(unknown)}.")
        fixed = {name: lambda key, before, value=value: jnp.asarray(value) for name, value in values.items()}
        return CausalModel({**self.assignments, **fixed})

    def sample(self, key: jax.Array, size: int) -> dict[str, jax.Array]:
        """Run all assignments, for many people.

        Parameters
        ----------
        key
            A typed key.
        size
            Number of people, N.

        Returns
        -------
        dict
            Each variable, its leading axis of size N.
        """
        check_counts(size=size)

        def person(key: jax.Array) -> dict[str, jax.Array]:
            values: dict[str, jax.Array] = {}
            for place, (name, assignment) in enumerate(self.assignments.items()):
                values[name] = assignment(jax.random.fold_in(key, place), dict(values))
            return values

        drawn = jax.vmap(person)(jax.random.split(check_key(key), size))
        return {name: drawn[name] for name in self.assignments}  # vmap sorts them


def balding_nichols(key: jax.Array, frequency: jax.Array, fst: float, populations: int) -> jax.Array:
    r"""Allele frequencies of populations that drifted apart from one (Balding and Nichols 1995).

    .. math:: p_{km} \sim \mathrm{Beta}\Big(\tfrac{1 - F}{F} p_m, \tfrac{1 - F}{F} (1 - p_m)\Big),
              \qquad E\, p_{km} = p_m, \quad \operatorname{Var} p_{km} = F p_m (1 - p_m).

    Parameters
    ----------
    key
        A typed key.
    frequency
        Ancestral frequencies, shape (M,), between 0 and 1.
    fst
        Wright's F, between 0 and 1: the share of the variance that lies between populations.
    populations
        Their number, K.

    Returns
    -------
    jax.Array
        Shape (K, M).

    Raises
    ------
    ValueError
        If ``fst`` is out of its range, or ``populations`` is no positive integer.

    Examples
    --------
    >>> import jax
    >>> balding_nichols(jax.random.key(0), jnp.full(5, 0.3), 0.1, populations=3).shape
    (3, 5)
    """
    check_counts(populations=populations)
    _check_between("fst", fst, 0, 1)
    scale = (1 - fst) / fst
    frequency = jnp.asarray(frequency, float)
    shape = (populations, *frequency.shape)
    return jax.random.beta(check_key(key), scale * frequency, scale * (1 - frequency), shape)


class Study(NamedTuple):
    r"""Genotypes of N people at M SNPs, and what their trait's index is made of.

    Attributes
    ----------
    genotypes
        Copies of an allele, 0, 1 or 2, as floats, shape (N, M).
    ancestry
        Shares of the K populations, shape (N, K), or places on the map, shape (N, 2). Nobody observes it.
    standardized
        Genotypes with mean 0 and variance 1 in each column, shape (N, M).
    effects
        Of the standardized genotypes, shape (M,): zero but for the causal SNPs.
    causal
        Places of the causal SNPs, shape (C,).
    confounding
        The part of the index that ancestry adds by other ways than these SNPs, shape (N,).
    """

    genotypes: jax.Array
    ancestry: jax.Array
    standardized: jax.Array
    effects: jax.Array
    causal: jax.Array
    confounding: jax.Array

    @property
    def predictor(self) -> jax.Array:
        """The index, all that moves the trait but its noise, shape (N,)."""
        return self.standardized @ self.effects + self.confounding


def simulate_study(
    key: jax.Array,
    people: int = 400,
    snps: int = 300,
    structure: str = "admixed",
    *,
    populations: int = 3,
    alpha: float = 0.1,
    fst: float = 0.1,
    causal: int = 10,
    genetic: float = 0.3,
    confounding: float = 0.4,
) -> Study:
    r"""Simulate a study of people whose ancestry moves both their genotypes and their trait.

    .. math:: x_{nm} \sim \mathrm{Binomial}(2, \pi_{nm}), \qquad
              s_n = \sum_m b_m u_{nm} + c(z_n), \quad u = \text{standardized } x,

    with the ancestry :math:`z_n` in one of three forms:

    * ``"islands"``: one population for each person, :math:`\pi_n` its row of :func:`balding_nichols`;
    * ``"admixed"``: shares :math:`z_n \sim \mathrm{Dirichlet}(\alpha, \dots, \alpha)` of all populations,
      :math:`\pi_n` the average of their rows (Pritchard, Stephens and Donnelly 2000);
    * ``"spatial"``: places :math:`z_n` on a square, coordinates from :math:`\mathrm{Beta}(\alpha, \alpha)`,
      :math:`\mathrm{logit}\, \pi_{nm}` linear in the place (Yang et al. 2012), with slopes of either sign,
      three times a Gamma(1/4) variable: small for most SNPs, and large for some.

    Ancestral frequencies are uniform on (.1, .9). Twice as many SNPs are drawn as are wanted, and the first
    are kept whose rarer allele is not below 5 % among these people; if there are too few, rarer ones fill the
    rest, and a SNP without variation has a column of zeros. The causal effects are normal, moved away from
    zero by .5. The confounding is a linear function of the shares, with normal coefficients, or, on the
    map, a bump around (.7, .7). Both parts of the index are scaled to their variances among these people.

    Parameters
    ----------
    key
        A typed key.
    people, snps
        Numbers N and M.
    structure
        One of :data:`STRUCTURES`.
    populations
        Their number K, where there are populations.
    alpha
        Of the Dirichlet or Beta distribution of ancestry: the smaller, the less mixed.
    fst
        How far populations have drifted apart, see :func:`balding_nichols`.
    causal
        Number of SNPs with an effect, C.
    genetic, confounding
        Variances of the two parts of the index.

    Returns
    -------
    Study
        All of it, the hidden parts too. To be traced, all arguments but the key are static.

    Raises
    ------
    ValueError
        If ``structure`` is unknown or a number is out of its range.

    Examples
    --------
    >>> import jax
    >>> study = simulate_study(jax.random.key(0), people=50, snps=20, causal=2)
    >>> study.genotypes.shape, study.ancestry.shape, study.predictor.shape
    ((50, 20), (50, 3), (50,))
    """
    check_counts(people=people, snps=snps, populations=populations, causal=causal)
    if structure not in STRUCTURES:
        raise ValueError(f"structure: expected one of {', '.join(STRUCTURES)}; got {structure!r}.")
    if causal > snps:
        raise ValueError(f"causal: expected at most snps, {snps}, got {causal}.")
    _check_between("alpha", alpha, 0, math.inf)
    _check_between("genetic", genetic, 0, math.inf)
    _check_between("confounding", confounding, 0, math.inf)
    k_place, k_frequency, k_drift, k_allele, k_causal, k_effect, k_confounding = jax.random.split(
        check_key(key), 7
    )
    frequency = jax.random.uniform(k_frequency, (2 * snps,), minval=0.1, maxval=0.9)
    if structure == "spatial":
        ancestry = jax.random.beta(k_place, alpha, alpha, (people, 2))
        k_size, k_sign = jax.random.split(k_drift)
        slope = 3 * jax.random.gamma(k_size, 0.25, (2, 2 * snps))
        slope = slope * jax.random.rademacher(k_sign, slope.shape, slope.dtype)
        logit = jnp.log(frequency) - jnp.log1p(-frequency)
        probability = jax.nn.sigmoid(logit + (ancestry - 0.5) @ slope)
        part = jnp.exp(-jnp.sum((ancestry - 0.7) ** 2, 1) / 0.08)
    else:
        if structure == "islands":
            island = jax.random.randint(k_place, (people,), 0, populations)
            ancestry = jax.nn.one_hot(island, populations)
        else:
            ancestry = jax.random.dirichlet(k_place, jnp.full(populations, alpha), (people,))
        probability = ancestry @ balding_nichols(k_drift, frequency, fst, populations)
        part = ancestry @ jax.random.normal(k_confounding, (populations,))
    alleles = jax.random.uniform(k_allele, (2, *probability.shape)) < probability
    drawn = jnp.sum(alleles, 0).astype(probability.dtype)
    share = jnp.mean(drawn, 0) / 2
    rare = jnp.minimum(share, 1 - share) < RAREST
    genotypes = drawn[:, jnp.argsort(rare, stable=True)[:snps]]
    standardized = jax.nn.standardize(genotypes, axis=0, epsilon=1e-12)
    chosen = jax.random.choice(k_causal, snps, (causal,), replace=False)
    size = jax.random.normal(k_effect, (causal,))
    size = size + 0.5 * jnp.sign(size)
    effects = jnp.zeros(snps, size.dtype).at[chosen].set(size)
    effects = effects * jnp.sqrt(genetic) / jnp.std(standardized @ effects)
    part = jax.nn.standardize(part, epsilon=1e-12) * jnp.sqrt(confounding)
    return Study(genotypes, ancestry, standardized, effects, chosen, part)


def linear_trait(noise: jax.Array, index: jax.Array, a: jax.Array, kappa: jax.Array) -> jax.Array:
    r"""A trait whose mean the index moves: :math:`y = a + s + \kappa \epsilon_1`.

    Parameters
    ----------
    noise
        Standard normals, shape (..., 1) or more; the first is used.
    index
        The index s, shape (...).
    a, kappa
        Intercept and size of the noise.

    Returns
    -------
    jax.Array
        The trait, shape (...).

    Examples
    --------
    >>> print(linear_trait(jnp.ones((1, 1)), jnp.zeros(1), 0.5, 2.0))
    [2.5]
    """
    return a + index + kappa * noise[..., 0]


def spread_trait(noise: jax.Array, index: jax.Array, a: jax.Array, kappa: jax.Array) -> jax.Array:
    r"""A trait whose mean and spread the index moves, with noise from a product of normals.

    .. math:: y = a + \tfrac12 s + \kappa e^{0.7 s} \big(\epsilon_1 + \tfrac12 |\epsilon_2| \epsilon_3\big),

    of mean :math:`a + s / 2` and standard deviation :math:`\sqrt{5/4}\, \kappa e^{0.7 s}`.

    Parameters
    ----------
    noise
        Standard normals, shape (..., 3).
    index
        The index s, shape (...).
    a, kappa
        Intercept and size of the noise.

    Returns
    -------
    jax.Array
        The trait, shape (...).

    Examples
    --------
    >>> print(spread_trait(jnp.ones((1, 3)), jnp.zeros(1), 0.5, 2.0))
    [3.5]
    """
    heavy = noise[..., 0] + 0.5 * jnp.abs(noise[..., 1]) * noise[..., 2]
    return a + 0.5 * index + kappa * jnp.exp(0.7 * index) * heavy


def _check_between(name: str, value: float, low: float, high: float) -> None:
    if not low < value < high:
        raise ValueError(f"{name}: expected a number between {low} and {high}, got {value!r}.")
