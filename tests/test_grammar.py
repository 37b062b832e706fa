"""The arithmetic grammar against a chart parser that knows nothing but its rules, and by enumeration."""

import ast
import itertools
import math
from collections import Counter
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from himlib.networks import straight_through
from himlib.simulators.grammar import SYMBOLS, ArithmeticGrammar

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(0)
EQUAL = ArithmeticGrammar()  # leaves uniform on 1, ..., 8
RULES = (0.45, 0.05, 0.1, 0.15, 0.25)
SKEWED = ArithmeticGrammar.from_rules(RULES, 7)
GRAMMARS = {"equal": EQUAL, "strings": ArithmeticGrammar.over_strings(15), "rules": SKEWED}
# The six samples that the paper prints, of 16 symbols each: whether their first 15 begin with an operator,
# and how often an operator follows another.
PRINTED = {
    "-x+x/x**x*//x*x+": (True, 3),
    "x/x*x+x*x/x+x+x+": (False, 0),
    "/+x*x+x*x/x/x+x+": (True, 1),
    "/x+*x+x*x/x+x-x+": (True, 1),
    "x/x*x/x*x+x+x+x-": (False, 0),
    "x+x+x/x*x*x+x/x+": (False, 0),
}


@cache
def inside(text, rules=(1, 1, 1, 1, 1)):
    """The sum over all parse trees of the product of their rules' weights; with weights 1, their number."""
    if text == "x":
        return rules[0]
    return sum(
        rules[SYMBOLS.index(text[i])] * inside(text[:i], rules) * inside(text[i + 1 :], rules)
        for i in range(1, len(text) - 1)
        if text[i] in "+-*/"
    )


def texts(length, alphabet="x+-*/"):
    return map("".join, itertools.product(alphabet, repeat=length))


def encode(grammar, strings):
    return np.stack([grammar.encode(text) for text in strings])


def language(grammar):
    """Every string of the language, by the alternation of leaves and operators."""
    for k in range(1, len(grammar.leaves) + 1):
        for operators in itertools.product("+-*/", repeat=k - 1):
            yield "x" + "".join(operator + "x" for operator in operators)


@pytest.mark.parametrize("length", range(8))
def test_counts_are_those_of_all_parses(length):
    trees = [inside(text) for text in texts(length)]
    assert ArithmeticGrammar.count_strings(length) == sum(map(bool, trees))
    if length % 2:
        assert ArithmeticGrammar.count_trees(length) == sum(trees)


def test_the_language_alternates_x_and_operators():
    parsed = {text for length in range(8) for text in texts(length) if inside(text)}
    assert parsed == set(language(ArithmeticGrammar(7)))


def test_numbers_of_the_language_of_fifteen_symbols():
    counts = [ArithmeticGrammar.count_strings(length) for length in range(16)]
    assert sum(counts) == 21_845 and counts[15] == 4**7
    assert ArithmeticGrammar.count_trees(15) == 429 * 4**7  # 429 is the seventh Catalan number
    assert EQUAL.entropy == pytest.approx(math.log(8) + 3.5 * math.log(4)) == pytest.approx(6.931, abs=5e-4)
    assert GRAMMARS["strings"].entropy == pytest.approx(math.log(21_845))
    # The share of the string "x" among those of at most 15 symbols: why fixed rules make a poor target.
    for leaf, share in ((0.5, 0.62), (0.2, 0.80)):
        operator = (1 - leaf) / 4
        grammar = ArithmeticGrammar.from_rules((leaf, operator, operator, operator, operator))
        assert grammar.leaves[0] == pytest.approx(share, abs=0.01)


def test_interval_of_the_likelihood_of_the_exact_source():
    # No model can do better than 6.93 nats a string but by the luck of 5,000 strings: 6.88 to 6.97 or so.
    symbols = encode(EQUAL, language(EQUAL))
    log_prob = np.asarray(EQUAL.log_prob(symbols), np.float64)
    probability = np.exp(log_prob)
    mean = -(probability * log_prob).sum()
    error = np.sqrt((probability * (log_prob + mean) ** 2).sum() / 5_000)
    assert mean == pytest.approx(EQUAL.entropy, rel=1e-5)
    assert mean - error == pytest.approx(6.886, abs=2e-3) and mean + error == pytest.approx(6.976, abs=2e-3)
    drawn = -np.asarray(EQUAL.log_prob(EQUAL.sample(KEY, 40_000)), np.float64)
    assert abs(drawn.mean() - mean) < 4.5 * error / np.sqrt(8)


@pytest.mark.parametrize("name", GRAMMARS)
def test_probabilities_of_all_strings_sum_to_one(name):
    grammar = GRAMMARS[name]
    strings = list(language(grammar))
    log_prob = np.asarray(grammar.log_prob(encode(grammar, strings)), np.float64)
    assert np.exp(log_prob).sum() == pytest.approx(1, abs=1e-4)
    assert -(np.exp(log_prob) * log_prob).sum() == pytest.approx(grammar.entropy, rel=1e-4)
    by_length = np.bincount([len(text) for text in strings], np.exp(log_prob), grammar.max_length + 1)
    np.testing.assert_allclose(by_length, grammar.length_probabilities, atol=1e-4)
    if name == "strings":
        np.testing.assert_allclose(log_prob, -math.log(len(strings)), rtol=1e-5)


def test_rules_give_the_sum_over_all_trees():
    strings = list(language(SKEWED))
    weights = np.array([inside(text, RULES) for text in strings])
    expected = np.log(weights / weights.sum())
    np.testing.assert_allclose(SKEWED.log_prob(encode(SKEWED, strings)), expected, rtol=1e-5)
    # Without a bound on the length, a subcritical grammar ends with probability one.
    endless = ArithmeticGrammar.from_rules((0.7, 0.1, 0.1, 0.05, 0.05), 401)
    assert endless.leaves[0] == pytest.approx(0.7) and endless.leaves[1] == pytest.approx(0.7**2 * 0.3)


@pytest.mark.parametrize("name", GRAMMARS)
def test_draws_have_their_probabilities(name):
    grammar, size = GRAMMARS[name], 40_000
    symbols = np.asarray(grammar.sample(jax.random.key(1), size))
    assert symbols.shape == (size, grammar.max_length) and symbols.dtype == np.int32
    assert np.asarray(grammar.is_valid(symbols)).all()
    lengths = (symbols != SYMBOLS.index("_")).sum(1)

    def surprise(counts, probabilities):
        return stats.chisquare(counts, size * np.asarray(probabilities) / sum(probabilities)).pvalue

    counts = np.bincount(lengths, minlength=grammar.max_length + 1)[1::2]
    assert surprise(counts, grammar.leaves) > 1e-4
    wrong = np.array(grammar.leaves) * np.resize([1, 1.2], counts.size)
    assert surprise(counts, wrong) < 1e-4  # the test can fail
    if name == "rules":  # every string, one by one
        strings = list(language(grammar))
        drawn = Counter(map(grammar.decode, symbols))
        probabilities = np.exp(np.asarray(grammar.log_prob(encode(grammar, strings)), np.float64))
        assert surprise([drawn[text] for text in strings], probabilities) > 1e-4
    else:  # operators are independent and uniform, at neighboring places too
        longest = symbols[lengths == 15][:, 1::2] - 1
        pairs = np.bincount((4 * longest[:, :-1] + longest[:, 1:]).ravel(), minlength=16)
        assert stats.chisquare(pairs).pvalue > 1e-4


@pytest.mark.parametrize("max_length", [1, 2, 3, 6])
def test_lengths_that_are_even_or_small(max_length):
    grammar = ArithmeticGrammar(max_length)
    symbols = grammar.sample(KEY, 500)
    assert symbols.shape == (500, max_length)
    assert {grammar.decode(row) for row in np.asarray(symbols)} <= set(language(grammar))
    assert np.bincount((np.asarray(symbols) != 5).sum(1)).nonzero()[0].max() == 2 * len(grammar.leaves) - 1


def test_every_row_is_judged_as_the_parser_does():
    # All rows of five symbols, ends among them: valid if they parse up to a tail of nothing but ends.
    grammar = ArithmeticGrammar(5)
    rows = list(texts(5, SYMBOLS))
    expected = np.array([inside(text.rstrip("_")) > 0 for text in rows])
    symbols = encode(grammar, rows)
    np.testing.assert_array_equal(grammar.is_valid(symbols), expected)
    assert expected.sum() == 1 + 4 + 16
    np.testing.assert_array_equal(np.isfinite(grammar.log_prob(symbols)), expected)
    assert [grammar.decode(row) for row in symbols[:300]] == [text.rstrip("_") for text in rows[:300]]
    assert not grammar.is_valid(jnp.array([0, 6, 0, 5, 5])) and not grammar.is_valid(
        jnp.array([0, -1, 0, 5, 5])
    )


def test_python_agrees_where_operators_are_binary():
    # Python also reads signs and the powers x**x and x//x, which this grammar has not.
    rng = np.random.default_rng(0)
    good = EQUAL.sample(KEY, 200)
    for row in np.asarray(good):
        tree = ast.parse(EQUAL.decode(row), mode="eval")
        names = sum(isinstance(node, ast.Name) for node in ast.walk(tree))
        assert names == (row == 0).sum() and not any(isinstance(n, ast.UnaryOp) for n in ast.walk(tree))
    bad = np.asarray(good).copy()
    longer = bad[(bad == 0).sum(1) > 2]
    longer[:, 2] = rng.integers(3, 5, len(longer))  # a * or / in place of the second x
    for row in longer:
        text = EQUAL.decode(row).replace("**", "*|").replace("//", "/|")
        with pytest.raises(SyntaxError):
            ast.parse(text, mode="eval")
    assert not np.asarray(EQUAL.is_valid(longer)).any()


@pytest.mark.parametrize("text", PRINTED)
def test_samples_that_the_paper_prints(text):
    # Each ends in an operator, so that none is whole; of the first 15 symbols, three parse.
    assert len(text) == 16 and inside(text) == 0
    whole = ArithmeticGrammar(16)
    assert not whole.is_valid(whole.encode(text))
    cut = text[:15]
    doubled = sum(a in "+-*/" and b in "+-*/" for a, b in itertools.pairwise(cut))
    assert (cut[0] != "x", doubled) == PRINTED[text]
    assert bool(EQUAL.is_valid(EQUAL.encode(cut))) == (PRINTED[text] == (False, 0)) == (inside(cut) > 0)


def test_statistics_of_strings_one_can_count():
    grammar = ArithmeticGrammar(7)
    rows = ["x", "x", "x+x", "x+x-x*x", "x+x-x/x", "x+x-x*x", "+x", "x_x", "x+x_x"]
    result = grammar.statistics(encode(grammar, rows))
    assert result.valid == pytest.approx(6 / 9)
    assert result.unique == pytest.approx(4 / 6)
    assert result.operator_entropy == pytest.approx(stats.entropy([2, 1]))
    # Lengths up to the first end: 1 three times, 2, 3 twice, 7 three times; a quarter each is right.
    expected = np.abs(np.array([3, 1, 2, 0, 3]) / 9 - [0.25, 0, 0.25, 0.25, 0.25]).sum() / 2
    assert result.length_distance == pytest.approx(expected)
    nothing = grammar.statistics(encode(grammar, ["+", "++"]))
    assert nothing == (0.0, 0.75, 0.0, 0.0)


def test_statistics_of_a_thousand_strings_of_the_source():
    # What a chapter holds its samples against: the best that any 1,000 strings can be expected to give.
    many = [EQUAL.statistics(EQUAL.sample(jax.random.key(seed), 1_000)) for seed in range(10)]
    valid, distance, unique, entropy = np.array(many).T

    def within(values, expected, slack=0.0):
        return abs(values.mean() - expected) < 4.5 * values.std(ddof=1) / np.sqrt(len(values)) + slack

    assert (valid == 1).all()
    counts = 4.0 ** np.arange(8)
    distinct = np.sum(counts * (1 - (1 - 1 / (8 * counts)) ** 1_000))
    assert within(unique, distinct / 1_000) and distinct / 1_000 == pytest.approx(0.54, abs=0.01)
    share = 1 / 8
    assert within(distance, 8 / 2 * np.sqrt(2 / np.pi * share * (1 - share) / 1_000), 1e-3)
    # Miller's correction: 625 of them have three operators, in 64 ways.
    assert within(entropy, 3 * math.log(4) - 63 / (2 * 625), 2e-3)
    assert 3 * math.log(4) == pytest.approx(4.16, abs=2e-3) and entropy.mean() == pytest.approx(
        4.11, abs=0.01
    )


def test_validity_alone_misleads():
    collapsed = EQUAL.statistics(encode(EQUAL, ["x+x+x+x+x+x+x+x"] * 100))
    assert collapsed == (1.0, pytest.approx(7 / 8), 0.01, 0.0)


def test_same_under_jit_and_vmap():
    symbols = EQUAL.sample(KEY, 6)
    np.testing.assert_array_equal(jax.jit(EQUAL.sample, static_argnums=1)(KEY, 6), symbols)
    many = jax.jit(jax.vmap(lambda key: EQUAL.sample(key, 6)))(jax.random.split(KEY, 3))
    assert many.shape == (3, 6, 15) and not (many[0] == many[1]).all()

    def judge(symbols):
        return EQUAL.is_valid(symbols), EQUAL.log_prob(symbols)

    rows = symbols.at[0, 0].set(1)
    valid, log_prob = judge(rows)
    assert np.array_equal(valid, [False] + 5 * [True])
    for function in (jax.jit(judge), jax.jit(jax.vmap(judge))):
        for got, expected in zip(function(rows), (valid, log_prob), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert all(part.shape == (2, 3) for part in jax.eval_shape(judge, rows.reshape(2, 3, 15)))


def test_float64():
    symbols = np.asarray(EQUAL.sample(KEY, 6))
    single = EQUAL.log_prob(symbols)
    with jax.enable_x64(True):
        double = jax.jit(EQUAL.log_prob)(symbols)
        assert double.dtype == np.float64
        assert jax.eval_shape(lambda: EQUAL.sample(KEY, 6)).dtype == np.int32
    np.testing.assert_allclose(single, double, rtol=1e-6)
    exact = [
        -math.log(8) - (np.asarray(row) == 0).sum() * math.log(4) + math.log(4) for row in np.asarray(symbols)
    ]
    np.testing.assert_allclose(double, exact, rtol=1e-12)


def test_straight_through_is_hard_forward_and_soft_backward():
    logits = 3 * jax.random.normal(KEY, (7, 15, 6))
    hard = np.asarray(jax.jit(straight_through)(logits))
    assert set(np.unique(hard)) == {0.0, 1.0} and (hard.sum(-1) == 1).all()
    np.testing.assert_array_equal(hard.argmax(-1), logits.argmax(-1))
    weights = jax.random.normal(jax.random.key(1), logits.shape)
    gradients = [
        jax.jit(jax.grad(lambda logits, f=f: jnp.sum(weights * f(logits) ** 2)))(logits)
        for f in (straight_through, jax.nn.softmax, lambda logits: jax.nn.one_hot(logits.argmax(-1), 6))
    ]
    # The chain rule takes what comes from above at the hard symbol, 2 w y, and goes on through the softmax.
    soft = jax.vjp(jax.nn.softmax, logits)[1](2 * weights * hard)[0]
    np.testing.assert_allclose(gradients[0], soft, rtol=1e-5, atol=1e-6)
    assert np.abs(gradients[0] - gradients[1]).max() > 0.01 and not gradients[2].any()


def test_straight_through_learns_a_string():
    # Descent on a loss of hard symbols alone: impossible without a gradient through them.
    target = jax.nn.one_hot(EQUAL.encode("x+x*x"), 6)

    def loss(logits):
        return jnp.sum((straight_through(logits) - target) ** 2)

    @jax.jit
    def descend(logits):
        return jax.lax.fori_loop(0, 100, lambda _, at: at - 0.5 * jax.grad(loss)(at), logits)

    logits = descend(jax.random.normal(KEY, (15, 6)))
    assert EQUAL.decode(logits.argmax(-1)) == "x+x*x"


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_lowers_for_accelerators(platform):
    def judge(key):
        return EQUAL.log_prob(EQUAL.sample(key, 3))

    jax.export.export(jax.jit(judge), platforms=[platform])(KEY)


def test_equal_grammars_are_equal():
    assert ArithmeticGrammar(3) == ArithmeticGrammar(3, [0.5, 0.5], np.full(4, 0.25))
    assert hash(ArithmeticGrammar(3)) != hash(ArithmeticGrammar(5))


CALLS = {
    "no length": (lambda: ArithmeticGrammar(0), "max_length: expected a positive integer, got 0"),
    "a real length": (lambda: ArithmeticGrammar(15.0), "max_length: expected a positive integer, got 15.0"),
    "few leaves": (
        lambda: ArithmeticGrammar(5, (0.5, 0.5)),
        "leaves: expected 3 probabilities that sum to one",
    ),
    "leaves beyond one": (lambda: ArithmeticGrammar(3, (0.5, 0.6)), "leaves: expected 2 probabilities"),
    "negative": (lambda: ArithmeticGrammar(3, (1.5, -0.5)), "leaves: expected 2 probabilities"),
    "not a number": (lambda: ArithmeticGrammar(1, (math.nan,)), "leaves: expected 1 probabilities"),
    "three operators": (lambda: ArithmeticGrammar(3, None, (0.5, 0.3, 0.2)), "operators: expected 4 prob"),
    "four rules": (lambda: ArithmeticGrammar.from_rules((0.25,) * 4), "rules: expected 5 probabilities"),
    "no leaf": (lambda: ArithmeticGrammar.from_rules((0, 0.25, 0.25, 0.25, 0.25)), "rules: expected S -> x"),
    "only leaves": (lambda: ArithmeticGrammar.from_rules((1, 0, 0, 0, 0)), "rules: expected S -> x with"),
    "unknown symbol": (lambda: EQUAL.encode("x+y"), "text: expected symbols of 'x\\+-\\*/_', got 'y'"),
    "long text": (lambda: EQUAL.encode("x" * 16), "text: expected at most max_length=15 symbols, got 16"),
    "text": (
        lambda: EQUAL.is_valid("x+x"),
        r"symbols: expected integers of shape \(..., 15\), got shape \(\)",
    ),
    "one-hot": (lambda: EQUAL.log_prob(np.zeros((15, 6), int)), "argmax one-hot vectors"),
    "soft symbols": (lambda: EQUAL.is_valid(np.zeros(15)), "and float64; encode turns text"),
    "many rows": (lambda: EQUAL.decode(np.zeros((2, 15), int)), r"one row, got shape \(2, 15\)"),
    "one row": (lambda: EQUAL.statistics(np.zeros(15, int)), r"symbols: expected shape \(n, 15\), got"),
    "no rows": (lambda: EQUAL.statistics(np.zeros((0, 15), int)), r"symbols: expected shape \(n, 15\), got"),
}


@pytest.mark.parametrize("call", CALLS)
def test_wrong_calls(call):
    function, message = CALLS[call]
    with pytest.raises(ValueError, match=message):
        function()


def test_an_old_key():
    with pytest.raises(TypeError, match="key: expected"):
        EQUAL.sample(jax.random.PRNGKey(0), 3)
