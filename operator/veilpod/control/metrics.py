"""What the operator measures. No label names a task, a peer, a pod or a place: a metric must not publish what the onion hides."""

import prometheus_client


class Metrics:
    """One registry per process, so that tests and processes do not share counters."""

    def __init__(self) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        self.depth = self._gauge("veilpod_queue_depth", "Keys that wait for a worker.", "kind")
        self.oldest = self._gauge("veilpod_queue_oldest_seconds", "How long the oldest waiting or running key has been at it.")
        self.retries = self._counter(
            "veilpod_reconcile_retries_total", "Reconciliations that will be repeated after a failure.", "kind", "reason"
        )
        self.reconciles = self._histogram("veilpod_reconcile_seconds", "Duration of one reconciliation.", "kind")
        self.effects = self._counter("veilpod_effects_total", "Effects executed.", "effect")
        self.conditions = self._counter("veilpod_condition_changes_total", "Condition changes written.", "kind", "type", "status")
        self.stage = self._histogram("veilpod_stage_seconds", "From the object's creation to a condition's True.", "kind", "type")
        self.sandboxes = self._gauge("veilpod_sandboxes", "Sandbox pods that exist.")
        self.orphans = self._counter("veilpod_orphans_total", "Orphans that the sweep found.", "kind")
        self.chain_head = self._gauge("veilpod_chain_head_age_seconds", "Age of the newest block that was seen.")
        self.chain_reorgs = self._counter("veilpod_chain_reorgs_total", "Confirmed blocks that were not final after all.")
        self.disagreements = self._counter("veilpod_chain_disagreements_total", "Answers in which the two RPC endpoints differed.")
        self.second_silence = self._gauge("veilpod_chain_second_silence_seconds", "Since the second RPC endpoint answered; 0 without one.")
        self.foreign = self._counter("veilpod_chain_foreign_transactions_total", "Transactions of our key that somebody else sent.")
        self.balance = self._gauge("veilpod_account_balance_wei", "Coin on our account, for gas and deposits.")
        self.gas_price = self._gauge("veilpod_gas_price_wei", "What we would bid for one gas now.")
        self.gas_spent = self._counter("veilpod_gas_spent_wei_total", "Paid for gas, from the state directory's first transaction on.")
        self.transactions = self._counter("veilpod_transactions_total", "Settled transactions.", "outcome")
        self.pending = self._gauge("veilpod_transactions_pending", "Transactions that are sent and not settled.")
        self.stake = self._gauge("veilpod_stake_wei", "Our stake in TaskScheduler.", "state")
        self.channels = self._gauge("veilpod_channels", "Our channels that hold money or may come to.", "phase")
        self.deposits = self._gauge("veilpod_channel_deposits_wei", "Ours in open channels, by the newest state that both signed.")
        self.token_deposits = self._gauge(
            "veilpod_channel_deposits_tokens", "Ours in open channels of tokens, in the smallest part of each.", "asset"
        )
        self.window_left = self._gauge("veilpod_challenge_window_left_seconds", "Left in each challenge window.", "window", "answer")
        self.window_ratio = self._gauge(
            "veilpod_challenge_window_left_ratio", "The same, as a part of the challenge period.", "window", "answer"
        )
        self.loop_lag = self._gauge("veilpod_event_loop_lag_seconds", "How late the event loop wakes.")
        self.guard_lag = self._gauge(
            "veilpod_guard_lag_versions", "Newest co-signed state minus what the watchtower holds, at worst.", "tower"
        )
        self.guard_waiting = self._gauge("veilpod_guard_waiting_seconds", "How long a state has waited for this watchtower.", "tower")
        self.guard_receipts = self._counter("veilpod_guard_receipts_total", "Receipts of a watchtower.", "tower")
        self.guard_refusals = self._counter("veilpod_guard_refusals_total", "States that a watchtower did not take.", "tower", "reason")
        self.status_writes = self._counter("veilpod_status_writes_total", "Status patches sent.", "kind")

    def _gauge(self, name: str, text: str, *labels: str) -> prometheus_client.Gauge:
        return prometheus_client.Gauge(name, text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> prometheus_client.Counter:
        return prometheus_client.Counter(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> prometheus_client.Histogram:
        buckets = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 30, 60, 300, 1800)
        return prometheus_client.Histogram(name, text, labels, registry=self.registry, buckets=buckets)
