r"""Joint matching: LFVI with local latents, and global weights learned through what they simulate.

With q(beta) a point, :math:`E_q[r]`, by which :func:`~himlib.variational.lfvi` learns, has no gradient in it
where neither r nor q(z | x) sees beta, as with a network's thousands of weights. Without a prior and without
the penalty the same game is adversarially learned inference, ALI (Dumoulin et al. 2017), and BiGAN (Donahue,
Kraehenbuehl and Darrell 2017).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from himlib._checks import check_counts, check_ratio
from himlib._options import check_optimizers, check_options
from himlib._problem import check_draws, check_local, check_measured, check_problem, measure
from himlib.base import Algorithm, Info, State, check_data, norm
from himlib.families import LocalFamily, PointMass
from himlib.losses import get_loss
from himlib.models import HierarchicalImplicitModel
from himlib.networks import Network
from himlib.random import check_key, draw_rows, normal

__all__ = ["joint_matching"]


def joint_matching(
    model: HierarchicalImplicitModel,
    ratio: Network,
    *,
    local: LocalFamily | None = None,
    start: Callable,
    ratio_optimizer: optax.GradientTransformation,
    posterior_optimizer: optax.GradientTransformation | dict,
    batch_size: int = 128,
    penalty: float = 1.0,
    decay: float = 0.0,
    moments: Callable | None = None,
    moment_weight: Callable = lambda step: 1.0,
    refit: Callable | None = None,
) -> Algorithm:
    r"""Build the matching of a model's pairs (x, z) with data x and z of q, by a point beta and q(z | x).

    .. math:: L(\beta, \phi) = E_{p(x, z \mid \beta)}\big[\log(1 + e^{r(x, z)})\big]
              - E_{q(x)\,q(z \mid x; \phi)}\big[r(x, z)\big] - \tfrac1N \log p(\beta),

    with :math:`r \approx \log p(x, z \mid \beta) - \log q(x, z)`. The first term draws the model's pairs to
    where q has more of them; its gradient goes through x. The others are the paper's (equation 7). A step
    draws as many pairs of the model as data, with their z of q. On these :math:`(\beta, \phi)` goes one
    step down L, and r one step down

    .. math:: D = E_p[-\log \sigma(r)] + E_q[-\log(1 - \sigma(r))]
                  + \tfrac{\gamma}{2} \big(E_p|\nabla_{x,z}\, r|^2 + E_q|\nabla_{x,z}\, r|^2\big),

    whose penalty (Mescheder, Geiger and Nowozin 2018) keeps the two from chasing each other in circles.

    Parameters
    ----------
    model
        The model, with a ``generate`` for the gradient in beta to go through.
    ratio
        Network of (x, z, None, covariate, None), such as :func:`himlib.networks.ratio_network` makes:
        in the place of beta there is None, for r does not see the weights.
    local
        Family of q(z | x), :class:`~himlib.families.ImplicitConditional` or one of your own, see
        :class:`~himlib.families.LocalFamily`; it too gets None in the place of beta. None, for a model
        without z, leaves the matching of x alone: a generative adversarial network.
    start
        ``start(key) -> beta``, the weights to begin with; ``model.sample_prior`` is one. The prior's mean
        is none: with all weights zero, a network passes no gradient on.
    ratio_optimizer
        An optax transformation.
    posterior_optimizer
        Another, or a dict of two: ``{"beta": ..., "z": ...}``. The weights are learned in units of the
        prior's scale.
    batch_size
        Pairs from either side in a step.
    penalty
        The :math:`\gamma` above. Slopes have units: those of x and z should be such that their sds are
        near one.
    decay
        The a in the averages over the steps, :math:`\bar\theta_t \propto \sum_{s \le t} a^{t - s} \theta_s`,
        of the weights and of q's parameters, from which all is sampled; 0 takes the last step.
    moments
        ``moments(x) -> vector`` for one datum. Adds to L the squared distance of their means over the
        batch, under the data and under the model; in units in which their errors compare with nats.
    moment_weight
        The weight of that, a function of the step, so that it can be annealed.
    refit
        ``refit(beta, x, z, covariate) -> number`` for one datum and its z of q. Adds its mean to L: a
        cost of reconstruction, or :math:`-\log p(x \mid z, \beta)` where there is one. It changes what is
        optimized, and is no part of LFVI.

    Returns
    -------
    Algorithm
        For :func:`himlib.training.fit` and :func:`himlib.training.fit_seeds`, in one round. Its ``elbo``
        is equation 7 at the present point.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If a number is out of range; in ``init``, if data and simulator do not agree.

    Notes
    -----
    Variational EM would have :math:`E_p[r]` as first term, a Kullback-Leibler divergence. Its slope in r is
    one; here it is :math:`\sigma(r)`, less where the model's pairs already look like q's.

    Nothing here measures q's width: q can end as a function of x, with next to none, and r none the wiser
    (on one seed in ten or so of a factor analysis). Look at it, on several seeds.

    Examples
    --------
    >>> import jax, optax
    >>> import numpyro.distributions as dist
    >>> from himlib import Data, ImplicitConditional, ratio_network
    >>> model = HierarchicalImplicitModel(dist.Normal(0, 1), noise_shape=(2,),
    ...     generate=lambda noise, beta, covariate: (noise[0], beta * noise[0] + noise[1]))
    >>> algorithm = joint_matching(model, ratio_network(), local=ImplicitConditional(),
    ...     start=model.sample_prior, ratio_optimizer=optax.adam(1e-3), posterior_optimizer=optax.adam(1e-3))
    >>> data = Data(jax.numpy.linspace(-1, 1, 200))
    >>> state = algorithm.init(jax.random.key(0), data)
    >>> state, info = jax.jit(algorithm.step)(jax.random.key(1), state, data)
    >>> int(state.step), bool(jax.numpy.isfinite(info.elbo))
    (1, True)
    """
    check_options(model, PointMass(), ratio, local, "empirical", "round", None, None)
    if model.generate is None:
        raise ValueError("model: expected one with generate, through which the gradient in beta goes.")
    check_optimizers(ratio_optimizer, posterior_optimizer, local)
    check_counts(batch_size=batch_size)
    functions = {"start": start, "moment_weight": moment_weight, "moments": moments, "refit": refit}
    for name, function in functions.items():
        if not callable(function) and (function is not None or name in ("start", "moment_weight")):
            raise TypeError(f"{name}: expected a function, got {function!r}.")
    if not penalty >= 0:
        raise ValueError(f"penalty: expected a number from 0 on, got {penalty!r}.")
    if not 0 <= decay < 1:
        raise ValueError(f"decay: expected a number from 0 to below 1, got {decay!r}.")
    if isinstance(posterior_optimizer, dict):
        parts = {part: part for part in posterior_optimizer}
        posterior_optimizer = optax.partition(posterior_optimizer, parts)
    space, loss = model.space, get_loss("log")

    def one_ratio(params, x, z, covariate):
        return ratio.apply(params, x, z, None, covariate, None)

    all_ratios = jax.vmap(one_ratio, (None, 0, 0, 0))
    ratios_and_slopes = jax.vmap(jax.value_and_grad(one_ratio, (1, 2)), (None, 0, 0, 0))

    def weights(params):
        return space.constrain(space.frame.location + space.frame.scale * params["beta"]["location"])

    def simulate(key, params, covariate):
        # The weights have no leading axis: a row of them for each pair would cost a hundred times as much.
        assert model.generate is not None and model.noise_shape is not None
        noise = normal(key, (batch_size, *model.noise_shape))
        return jax.vmap(model.generate, (0, None, 0))(noise, weights(params), covariate)

    def sample_z(params, key, data):
        return None if local is None else local.sample(params["z"], key, data.x, None, data.covariate)

    def both(p, q):
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), p, q)

    def estimate(params, r_q, size):
        """Estimate equation 7 from r at some of the data."""
        return model.log_prior(weights(params)) + size * r_q.mean()

    def step(key, state, data):
        k_index, k_model, k_z = jax.random.split(check_key(key), 3)
        batch, size = draw_rows(k_index, data, batch_size), jax.tree.leaves(data)[0].shape[0]
        params = {part: state.posterior[part] for part in state.posterior if part != "average"}

        def matching(params):
            z_p, x_p = simulate(k_model, params, batch.covariate)
            z_q = sample_z(params, k_z, batch)
            r_p = all_ratios(state.ratio, x_p, z_p, batch.covariate)
            value = estimate(params, all_ratios(state.ratio, batch.x, z_q, batch.covariate), size)
            total = jnp.mean(jax.nn.softplus(r_p)) - value / size
            if moments is not None:
                means = [jax.vmap(moments)(x).mean(0) for x in (x_p, batch.x)]
                total = total + moment_weight(state.step) * jnp.sum((means[0] - means[1]) ** 2)
            if refit is not None:
                costs = jax.vmap(refit, (None, 0, 0, 0))(weights(params), batch.x, z_q, batch.covariate)
                total = total + costs.mean()
            return total, (value, both((x_p, z_p), (batch.x, z_q)))

        def classifying(params):
            r, slopes = ratios_and_slopes(params, *pairs, both(batch.covariate, batch.covariate))
            squares = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(slopes)) / batch_size
            accuracy = (jnp.mean(r[:batch_size] > 0) + jnp.mean(r[batch_size:] < 0)) / 2
            value = loss(r[:batch_size], r[batch_size:])
            return value + penalty / 2 * squares, (value, accuracy)

        (_, (value, pairs)), slope = jax.value_and_grad(matching, has_aux=True)(params)
        (_, (ratio_loss, accuracy)), ratio_slope = jax.value_and_grad(classifying, has_aux=True)(state.ratio)
        change, posterior_state = posterior_optimizer.update(slope, state.posterior_optimizer, params)
        params = optax.apply_updates(params, change)
        change, ratio_state = ratio_optimizer.update(ratio_slope, state.ratio_optimizer, state.ratio)
        fresh = (1 - decay) / (1 - decay ** (state.step + 1))  # the share of the last step in the average
        average = jax.tree.map(lambda a, b: (1 - fresh) * a + fresh * b, state.posterior["average"], params)
        info = Info(
            elbo=value,
            ratio_loss=ratio_loss,
            accuracy=accuracy,
            ratio_gradient=norm(ratio_slope),
            posterior_gradient=norm(slope),
            spread=jnp.zeros(()),
        )
        return State(
            optax.apply_updates(state.ratio, change),
            {**params, "average": average},
            ratio_state,
            posterior_state,
            state.frame,
            state.step + 1,
        ), info

    @jax.jit
    def begin(key, data):
        k_start, k_index, k_model, k_local, k_z, k_ratio = jax.random.split(key, 6)
        location = (space.unconstrain(start(k_start)) - space.frame.location) / space.frame.scale
        params, batch = {"beta": {"location": location}}, draw_rows(k_index, data, batch_size)
        z, x = simulate(k_model, params, batch.covariate)
        if local is not None:  # in the units of the data's x, which a network may not know yet
            params["z"] = local.init(k_local, z, batch.x, None, batch.covariate)
            check_draws(z, jax.eval_shape(sample_z, params, k_z, batch))
        pairs = both((x, z), (batch.x, sample_z(params, k_z, batch)))
        covariate = both(batch.covariate, batch.covariate)
        ratio_params = ratio.init(k_ratio, *pairs, None, covariate, None)
        check_ratio(jax.eval_shape(all_ratios, ratio_params, *pairs, covariate).shape)
        return State(
            ratio_params,
            {**params, "average": params},
            ratio_optimizer.init(ratio_params),
            posterior_optimizer.init(params),
            space.frame,
            jnp.zeros((), jnp.int32),
        ), (jnp.stack([jnp.isfinite(leaf).mean() for leaf in jax.tree.leaves(pairs)]).min(), measure(z, x)[1])

    def init(key, data):
        check_data(data, batch_size)
        if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(data.x)):
            raise ValueError(
                "data: expected x in floating point, for r has a slope in it; see jax.nn.one_hot."
            )
        check_local(check_problem(model, data, pair=True, least=None), local)
        state, measured = begin(check_key(key), data)
        check_measured(measured)
        return state

    def refine(key, state, data):
        raise ValueError("refine: a point has no width to propose from; fit it in one round.")

    def point(state):
        location = space.frame.location + space.frame.scale * state.posterior["average"]["beta"]["location"]
        return jnp.stack([location, jnp.zeros_like(location)])

    def sample(key, state, size):
        check_key(key)
        beta = weights(state.posterior["average"])
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (size, *leaf.shape)), beta)

    def sample_local(key, state, beta, data):
        return sample_z(state.posterior["average"], check_key(key), data)

    def elbo(key, state, data):
        params, size = state.posterior["average"], jax.tree.leaves(data)[0].shape[0]
        z = sample_z(params, check_key(key), data)
        return estimate(params, all_ratios(state.ratio, data.x, z, data.covariate), size)

    def log_ratio(state, x, z, beta, covariate=None):
        return one_ratio(state.ratio, x, z, covariate)

    return Algorithm(init, step, refine, point, sample, sample_local, elbo, log_ratio)
