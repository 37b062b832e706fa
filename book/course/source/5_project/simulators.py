"""The three simulators of the project. Each makes one datum from a key and its parameters, all positive."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from himlib.random import normal

PEOPLE, DAYS, PERIOD = 500, 40, 4  # a village, watched for so many days, which reports every four
CUSTOMERS = 25  # a day of the queue
DRAWS = 50  # a sample of the g-and-k distribution


class Simulator(NamedTuple):
    """What there is to know of a simulator.

    names: of the parameters, in the order in which simulate expects them.
    location, scale: of the normal prior of their logarithms, arrays of shape (d,).
    size: N, how many data there are.
    simulate: simulate(key, parameters) -> x, one datum, an array.
    """

    names: tuple[str, ...]
    location: jax.Array
    scale: jax.Array
    size: int
    simulate: Callable


def sir(key, parameters):
    """Simulate an epidemic in a village: new cases in each period, beginning with five infected people."""
    transmission, recovery = parameters  # per day

    def day(state, noise):
        susceptible, infected = state
        people = jnp.stack([susceptible, infected])
        chances = -jnp.expm1(-jnp.stack([transmission * infected / PEOPLE, recovery]))
        # Binomial counts, nearly: normal ones of the same mean and variance, kept between none and all.
        drawn = people * chances + jnp.sqrt(people * chances * (1 - chances)) * noise
        cases, recovered = jnp.clip(drawn, 0, people)
        return (susceptible - cases, infected + cases - recovered), cases

    start = jnp.array(PEOPLE - 5.0), jnp.array(5.0)
    _, cases = jax.lax.scan(day, start, normal(key, (DAYS, 2)))
    return cases.reshape(-1, PERIOD).sum(1)


def queue(key, parameters):
    """Simulate a queue with one server, M/G/1: the times between departures, in minutes."""
    shortest, extra, arrival_rate = parameters  # minutes, minutes, customers per minute
    k_arrival, k_service = jax.random.split(key)
    arrival = jnp.cumsum(jax.random.exponential(k_arrival, (CUSTOMERS,)) / arrival_rate)
    service = shortest + extra * jax.random.uniform(k_service, (CUSTOMERS,))
    work = jnp.cumsum(service)
    # A customer leaves when all work since the server was last idle is done: that is the latest of these.
    departure = work + jax.lax.cummax(arrival - work + service)
    return jnp.diff(departure, prepend=0.0)


def g_and_k(key, parameters):
    """Draw a sample of the g-and-k distribution, of which only the quantile function is known."""
    a, b, g, k = parameters  # median, scale, skewness, weight of the tails
    u = normal(key, (DRAWS,))
    return a + b * (1 + 0.8 * jnp.tanh(g * u / 2)) * (1 + u**2) ** k * u


def prior(*medians_and_sds):
    """Location and scale of the logarithms, from medians of the parameters and sds of their logarithms."""
    medians, sds = jnp.array(medians_and_sds).T
    return jnp.log(medians), sds


SIMULATORS = {
    "sir": Simulator(("transmission", "recovery"), *prior((0.6, 0.4), (0.25, 0.4)), 4, sir),
    "queue": Simulator(
        ("shortest", "extra", "arrival rate"), *prior((2.0, 0.4), (3.0, 0.5), (0.25, 0.5)), 5, queue
    ),
    "g_and_k": Simulator(
        ("a", "b", "g", "k"), *prior((3.0, 0.3), (1.0, 0.4), (1.5, 0.4), (0.4, 0.4)), 5, g_and_k
    ),
}
