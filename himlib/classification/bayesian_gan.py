"""The Bayesian GAN on labels, and the Bayesian neural network beside it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from himlib._checks import check_counts, check_methods
from himlib._options import check_family, check_network, check_optimizers
from himlib.base import Algorithm, Data, Info, State, check_data, norm
from himlib.classification.generator import ROWS, Generator
from himlib.classification.ratios import count_ratio, margins, noise_points
from himlib.families import Family
from himlib.losses import RatioLoss, get_loss
from himlib.models import Frame
from himlib.networks import Network
from himlib.random import check_key, draw_rows, normal

__all__ = ["bayesian_classifier"]


def bayesian_classifier(
    generator: Generator,
    posterior: Family,
    ratio: Network | None = None,
    *,
    ratio_optimizer: optax.GradientTransformation,
    posterior_optimizer: optax.GradientTransformation,
    loss: str | RatioLoss = "log",
    reference: str = "uniform",
    anchors: int = 8,
    fakes: int = 8,
    posterior_samples: int = 1,
    batch_size: int | None = None,
    kl_weight: float = 1.0,
    initial_sd: float = 0.1,
    initial_spread: float = 0.5,
) -> Algorithm:
    r"""Build LFVI for labels.

    .. math:: L = w \, E_q[\log p(\beta) - \log q(\beta)] + \frac NM \sum_n E_q\, r(x_n, c_n, \beta),

    where w = 1 is equation 7. One step draws weights from q and labels from the generator, and moves both
    r and q from one forward pass. The loss of r enumerates the labels instead of drawing a reference:

    .. math:: D = E \sum_{k=1}^K \big[\hat p_k \, \ell_p(r_k) + q_k \, \ell_q(r_k)\big],

    with :math:`\hat p_k` the share of label k among the generator's and :math:`q_k` the reference.

    Parameters
    ----------
    generator
        The network, a :class:`~himlib.classification.Generator`.
    posterior
        Family of q(beta), over the weights as one vector: :class:`~himlib.families.MeanFieldNormal`,
        :class:`~himlib.families.FullRankNormal`, :class:`~himlib.families.PointMass` (MAP), or one of your
        own whose distribution knows its entropy, see :class:`~himlib.families.Family`.
    ratio
        A network of (margins, covariate) that gives K ratios, see :mod:`himlib.classification`. None takes
        :func:`~himlib.classification.count_ratio`, whose three numbers stay fixed for a softmax output: then
        r is its log likelihood, plus log K, and there is nothing to learn.
    ratio_optimizer, posterior_optimizer
        Optax transformations; a warm-up of q is a schedule of the second.
    loss
        A name in :data:`himlib.losses.LOSSES` or a :class:`~himlib.losses.RatioLoss` that averages by the
        mean.
    reference
        The labels of the other class: ``"uniform"``, 1/K each, or ``"empirical"``, those of the data (the
        paper's), for which r needs :func:`~himlib.classification.subtract_baseline`. Neither depends on the
        weights, so that the exact gradient is the same.
    anchors, fakes
        Noises of a row at which r sees the logits, and fresh ones at which labels are drawn for D.
    posterior_samples
        Draws of the weights per step.
    batch_size
        M, rows per step, drawn with replacement and scaled by N/M; None takes all.
    kl_weight
        w, the weight of the prior term; below 1 the posterior is tempered, which a result has to say.
    initial_sd, initial_spread
        The sds of q at first, and the sd over weights of its random means. A point mass starts at the means.

    Returns
    -------
    Algorithm
        For :func:`himlib.training.fit`, or :func:`himlib.training.fit_seeds`. It has one round and no local
        latents; its ``log_ratio`` takes one label and one row's covariate.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or out of range; in ``init``, if data and generator do not agree.

    Notes
    -----
    The entropy of q, and the mean of the log prior, are taken in closed form: neither is sampled.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, optax
    >>> from himlib import Data, MeanFieldNormal
    >>> algorithm = bayesian_classifier(Generator(features=2, classes=3), MeanFieldNormal(),
    ...     ratio_optimizer=optax.adam(1e-2), posterior_optimizer=optax.adam(1e-2))
    >>> data = Data(jnp.array([0, 2, 1, 1]), jnp.ones((4, 2)))
    >>> state = algorithm.init(jax.random.key(0), data)
    >>> state, info = jax.jit(algorithm.step)(jax.random.key(1), state, data)
    >>> int(state.step), bool(jnp.isfinite(info.elbo))
    (1, True)
    """
    loss = get_loss(loss)
    numbers = {"kl_weight": kl_weight, "initial_sd": initial_sd, "initial_spread": initial_spread}
    check_settings(generator, posterior, ratio, loss, reference, numbers)
    check_counts(anchors=anchors, fakes=fakes, posterior_samples=posterior_samples)
    check_optimizers(ratio_optimizer, posterior_optimizer, None)
    if batch_size is not None:
        check_counts(batch_size=batch_size)
    if ratio is None:
        ratio = count_ratio(learned=generator.output == "argmax")
        if generator.output == "softmax":  # exact as it is
            ratio_optimizer = optax.identity()
    # The output that stands for r: r itself, for all losses but least squares.
    output_of = loss.optimum if loss.is_ratio and loss.optimum else lambda r: r
    shapes = jax.eval_shape(generator.init, jax.random.key(0))
    flat, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes))
    check_entropy(posterior, flat.size)
    if generator.noise_size == 0:  # all noises are the same
        anchors, fakes = 1, 1
    anchor_noise = noise_points(anchors, generator.noise_size)

    def anchor_margins(weights, covariate):
        return margins(generator.apply(weights, covariate, anchor_noise))

    # For each draw of the weights, and each row.
    all_margins = jax.vmap(jax.vmap(anchor_margins, (None, 0)), (0, None))
    all_logits = jax.vmap(jax.vmap(generator.apply, (None, 0, 0)), (0, None, 0))
    all_ratios = jax.vmap(jax.vmap(ratio.apply, (None, 0, 0)), (None, 0, None))

    def draw_weights(key, params):
        return jax.vmap(unravel)(posterior.sample(params, key, posterior_samples))

    def prior_term(params):
        """Of E_q[log p - log q], without the entropy of a point mass."""
        location, scale = posterior.moments(params)
        value = -jnp.sum(location**2 + scale**2 + jnp.log(2 * jnp.pi)) / 2
        if posterior.distribution is not None:
            value = value + posterior.distribution(params).entropy()
        return kl_weight * value

    def step(key, state, data):
        k_index, k_weights, k_noise = jax.random.split(check_key(key), 3)
        size = len(data.x)
        if batch_size is not None:
            data = draw_rows(k_index, data, batch_size)
        observed = jax.nn.one_hot(data.x, generator.classes)
        other = observed if reference == "empirical" else jnp.full_like(observed, 1 / generator.classes)

        def objective(ratio_params, params):
            weights = draw_weights(k_weights, params)
            margin = all_margins(weights, data.covariate)
            still_weights, still_margin, still_ratio = jax.lax.stop_gradient((weights, margin, ratio_params))
            r = all_ratios(still_ratio, margin, data.covariate)
            data_term = size * jnp.mean(jnp.sum(r * observed, axis=-1))
            value = prior_term(params) + data_term

            noise = normal(k_noise, (*margin.shape[:2], fakes, generator.noise_size))
            drawn = generator.probabilities(all_logits(still_weights, data.covariate, noise)).mean(-2)
            r = all_ratios(ratio_params, still_margin, data.covariate)
            output = output_of(r)
            ratio_loss = jnp.sum(drawn * loss.on_p(output) + other * loss.on_q(output), axis=-1).mean()
            accuracy = jnp.sum(drawn * (r > 0) + other * (r < 0), axis=-1).mean() / 2
            return ratio_loss - value / size, (value, ratio_loss, accuracy)

        gradients, (value, ratio_loss, accuracy) = jax.grad(objective, (0, 1), has_aux=True)(
            state.ratio, state.posterior["beta"]
        )
        change, ratio_state = ratio_optimizer.update(gradients[0], state.ratio_optimizer, state.ratio)
        ratio_params = optax.apply_updates(state.ratio, change)
        change, posterior_state = posterior_optimizer.update(
            gradients[1], state.posterior_optimizer, state.posterior["beta"]
        )
        params = optax.apply_updates(state.posterior["beta"], change)
        info = Info(
            elbo=value,
            ratio_loss=ratio_loss,
            accuracy=accuracy,
            ratio_gradient=norm(gradients[0]),
            posterior_gradient=norm(gradients[1]),
            spread=jnp.exp(jnp.log(posterior.moments(params)[1]).mean()),
        )
        return State(
            ratio_params, {"beta": params}, ratio_state, posterior_state, state.frame, state.step + 1
        ), info

    @jax.jit
    def begin(key, covariate):
        k_ratio, k_mean = jax.random.split(key)
        # q in the units of the prior, which are the frame for good.
        frame, ones = Frame(jnp.zeros_like(flat), jnp.ones_like(flat)), jnp.ones_like(flat)
        location = initial_spread * normal(k_mean, flat.shape)
        start = Frame(location, initial_sd * ones)
        params = posterior.reframe(posterior.init(flat.size), start, frame)
        margin = all_margins(jax.vmap(unravel)(location[None]), covariate)
        ratio_params = ratio.init(k_ratio, margin[0], covariate)
        check_ratios(jax.eval_shape(all_ratios, ratio_params, margin, covariate).shape, margin)
        return State(
            ratio=ratio_params,
            posterior={"beta": params},
            ratio_optimizer=ratio_optimizer.init(ratio_params),
            posterior_optimizer=posterior_optimizer.init(params),
            frame=frame,
            step=jnp.zeros((), jnp.int32),
        )

    def init(key, data):
        check_data(data, batch_size)
        check_labels(data, generator)
        return begin(check_key(key), data.covariate[:2])  # two rows, for their shapes

    def refine(key, state, data):
        raise ValueError("refine: r is trained where q is, in one round; use rounds=1.")

    def moments(state):
        return jnp.stack(posterior.moments(state.posterior["beta"]))

    def sample(key, state, size):
        return jax.vmap(unravel)(posterior.sample(state.posterior["beta"], check_key(key), size))

    def sample_local(key, state, beta, data):
        return None

    def elbo(key, state, data):
        weights = draw_weights(check_key(key), state.posterior["beta"])

        def one_row(row):
            r = jax.vmap(log_ratio, (None, None, None, 0, None))(state, row.x, None, weights, row.covariate)
            return r.mean()

        return prior_term(state.posterior["beta"]) + jax.lax.map(one_row, data, batch_size=ROWS).sum()

    def log_ratio(state, x, z, beta, covariate=None):
        return ratio.apply(state.ratio, anchor_margins(beta, covariate), covariate)[x]

    return Algorithm(init, step, refine, moments, sample, sample_local, elbo, log_ratio)


def check_settings(generator, posterior, ratio, loss, reference, numbers) -> None:
    """Refuse arguments of a wrong kind or size."""
    if not isinstance(generator, Generator):
        raise TypeError(f"generator: expected a Generator, got {type(generator).__name__}.")
    check_methods("posterior", posterior, "a family q(beta)", Family)
    if ratio is not None:
        check_network(ratio, "margins, covariate", "himlib.classification")
    if loss.mean_q is not jnp.mean:
        raise ValueError(f"loss: {loss.name!r} averages over no mean; labels are enumerated under a mean.")
    if loss.is_ratio and loss.optimum is None:
        raise ValueError(f"loss: {loss.name!r} does not say its optimum, which stands for r here.")
    if reference not in ("uniform", "empirical"):
        raise ValueError(f"reference: expected 'uniform' or 'empirical', got {reference!r}.")
    for name, value in numbers.items():
        if not value > 0:
            raise ValueError(f"{name}: expected a positive number, got {value!r}.")


def check_entropy(posterior: Family, size: int) -> None:
    """Refuse a family with arrays of wrong shapes, or with a density whose entropy is not known."""
    check_family(posterior, Frame(jnp.zeros(size), jnp.ones(size)))
    if (distribution := posterior.distribution) is None:
        return
    try:
        jax.eval_shape(lambda: distribution(posterior.init(size)).entropy())
    except (AttributeError, NotImplementedError) as error:
        raise TypeError(
            "posterior: expected a distribution that knows its entropy, which is taken in closed form here; "
            f"that of {type(posterior).__name__} does not."
        ) from error


def check_labels(data: Data, generator: Generator) -> None:
    """Refuse rows that the generator could not have made."""
    labels = data.x
    if jnp.ndim(labels) != 1 or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"data: expected x, the labels, as a vector of integers, got shape {jnp.shape(labels)} and "
            f"{labels.dtype}."
        )
    if jnp.shape(data.covariate)[1:] != (generator.features,):
        raise ValueError(
            f"data: expected covariate of shape (rows, {generator.features}), as the generator has it, got "
            f"{jnp.shape(data.covariate)}."
        )
    if not isinstance(labels, jax.core.Tracer):  # under jit and vmap there are no values to look at
        least, most = np.min(labels), np.max(labels)
        if least < 0 or most >= generator.classes:
            raise ValueError(f"data: expected labels 0 to {generator.classes - 1}, got {least} to {most}.")


def check_ratios(shape: tuple[int, ...], margin: jax.Array) -> None:
    """Refuse a ratio network that does not give one number for each label."""
    classes = margin.shape[-1]
    if shape[2:] != (classes,):
        raise ValueError(f"ratio: expected one number for each of {classes} labels, got shape {shape[2:]}.")
