"""One party of a channel as a pure machine: receipts and the peer's messages in, effects out.

a proposes, b accepts; at most one proposal is in flight, and no party ever signs two states with one version. Effects come as data, in
order: the shell writes a `Persist` to disk before it performs anything behind it, so a signature never leaves without its record. When a
step of the shell fails, the machine is thrown away and made again from the journal; every message may be lost, repeated or late. No clock:
the shell calls `next_message` from time to time until `finished` or until its patience ends and the chain decides. Paper step 7.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from veilpod.core.channel import messages, rules
from veilpod.core.channel.effects import Covered, Effect, Effects, Finished, Party, Persist, Send, Violated
from veilpod.core.channel.messages import Cosign, Flush, Message, Propose, Reject
from veilpod.core.channel.records import ReceiptRecord, Record, Signed, StateRecord
from veilpod.core.channel.rules import Link, Progress
from veilpod.core.channel.state import ChannelState
from veilpod.core.keys import SigningKey, recover
from veilpod.core.receipt import Receipt
from veilpod.errors import InvalidInput, ProtocolViolation

__all__ = ["Covered", "Effect", "Effects", "Finished", "Machine", "Party", "Persist", "Send", "Violated"]


class Machine:
    """One party. `records` are the journal's, in order; an opening state of another epoch starts afresh."""

    def __init__(self, *, link: Link, party: Party, key: SigningKey, opening: ChannelState, records: Iterable[Record] = ()) -> None:
        if key.address != (link.a if party is Party.A else link.b):
            raise InvalidInput("WrongKey", "this key is not the channel's party that it shall sign for")
        self._link = link
        self._party = party
        self._key = key
        self._opening = opening
        self._agreed: Signed | None = None
        self._progress = link.start()  # up to the agreed state
        self._attested = link.start()  # up to the newest receipt of our own agent
        self._waiting: list[Receipt] = []  # attested, and in no agreed state
        self._flight: tuple[Signed, tuple[Receipt, ...]] | None = None
        self._closing = False
        self._peer_ended: Flush | None = None
        self._broken = False
        self._restore(records)

    @property
    def agreed(self) -> Signed | None:
        """The newest state that both have signed: what to go to the chain with."""
        return self._agreed

    @property
    def state(self) -> ChannelState:
        """The state that stands: the agreed one, or the deposits."""
        return self._agreed.state if self._agreed else self._opening

    @property
    def finished(self) -> Signed | None:
        """The final state, once both have signed it."""
        return self._agreed if self._agreed is not None and self._agreed.final else None

    @property
    def broken(self) -> bool:
        """Whether the peer refused: no further state will be agreed on."""
        return self._broken

    @property
    def unpaid(self) -> int:
        """How many attested receipts no agreed state holds."""
        return len(self._waiting)

    def on_receipt(self, receipt: Receipt) -> Effects:
        """Take a receipt that our own agent attested (own or the peer's), in order, repeats allowed. Raises ProtocolViolation."""
        if self._attested.includes(receipt):
            return ()  # a repeat, or the peer's proposal was faster than our agent
        self._attested = self._attested.accept(self._link, receipt)
        self._waiting.append(receipt)
        record = ReceiptRecord(channel=self._link.channel, epoch=self._opening.epoch, receipt=receipt)
        return (Persist(record=record), *self._propose())

    def on_message(self, payload: Any) -> Effects:
        """Take what the peer's operator sent. Never raises: what an honest peer would not send becomes Violated."""
        try:
            return self._handle(messages.parse(payload))
        except ProtocolViolation as violation:
            return (Violated(code=violation.reason, fatal=False),)

    def next_message(self) -> Effects:
        """Say again what waits for an answer, or what there is to say. Call it on a timer and after a reconnection."""
        if self._broken or self.finished:
            return ()
        if self._flight is not None:
            return (self._proposal(),)
        if self._party is Party.A:
            return self._propose()
        return (Send(payload=messages.encode(self._flush())),) if self._closing else ()

    def finalise(self) -> Effects:
        """Our side of the link has ended and every receipt is in: work towards the final state. Repeating it is fine."""
        self._closing = True
        return self.next_message()

    # Proposing

    def _propose(self) -> Effects:
        if self._party is Party.B or self._flight is not None or self._broken or self.finished:
            return ()
        receipts = rules.affordable(self.state, self._waiting, self._link.price)
        final = self._may_end() and len(receipts) < rules.MAX_RECEIPTS
        if not receipts and not final:
            return ()
        state = rules.propose(self.state, receipts, self._link.price)
        signature, close = self._sign(state, final=final)
        self._flight = (Signed(state=state, final=final, signature_a=signature, close_a=close), receipts)
        record = StateRecord(channel=self._link.channel, signed=self._flight[0], receipts=receipts)
        return Persist(record=record), self._proposal()

    def _proposal(self) -> Send:
        assert self._flight is not None
        signed, receipts = self._flight
        proposal = Propose(
            state=signed.state,
            receipts=receipts,
            final=signed.final,
            signature=signed.signature_a,
            close_signature=signed.close_a,
        )
        return Send(payload=messages.encode(proposal))

    def _may_end(self) -> bool:
        if self._peer_ended is not None:
            received_by_a, received_by_b = self._attested.paid_bytes
            if received_by_a >= self._peer_ended.sent and received_by_b >= self._peer_ended.received:
                return True
        return self._closing

    # Messages

    def _handle(self, message: Message) -> Effects:
        match self._party, message:
            case Party.A, Cosign():
                return self._cosigned(message)
            case Party.A, Reject():
                return self._rejected(message)
            case Party.A, Flush():
                self._peer_ended = message
                return self._propose()
            case Party.B, Propose():
                return self._proposed(message)
        raise ProtocolViolation("WrongParty", "a message that only we may send", party="peer")

    def _cosigned(self, message: Cosign) -> Effects:
        if self._flight is None or message.version != self._flight[0].state.version:
            return ()  # late or repeated
        signed, receipts = self._flight
        self._verify(signed.state, message.signature, message.close_signature, final=signed.final, by=Party.B)
        close = message.close_signature if signed.final else b""
        return self._agree(dataclasses.replace(signed, signature_b=message.signature, close_b=close), receipts) + self._propose()

    def _rejected(self, message: Reject) -> Effects:
        if self._flight is None or message.version != self._flight[0].state.version:
            return ()
        # We signed this version, so we can never offer another state with it: what is agreed stands.
        self._broken = True
        return (Violated(code=message.code, fatal=True),)

    def _proposed(self, message: Propose) -> Effects:
        state = message.state
        if self._agreed is not None and state.version <= self.state.version:
            return self._repeated(message)
        try:
            if self.finished:
                raise ProtocolViolation("ChannelFinal", "a state after the final one", party="peer")
            rules.check(self._link, self.state, self._progress, state, message.receipts)
            self._verify(state, message.signature, message.close_signature, final=message.final, by=Party.A)
        except ProtocolViolation as violation:
            reject = Reject(version=state.version, code=violation.reason)
            return Violated(code=violation.reason, fatal=False), Send(payload=messages.encode(reject))
        signature, close = self._sign(state, final=message.final)
        signed = Signed(
            state=state,
            final=message.final,
            signature_a=message.signature,
            signature_b=signature,
            close_a=message.close_signature,
            close_b=close,
        )
        persist, *rest = self._agree(signed, message.receipts)
        return persist, self._cosign(signed), *rest

    def _repeated(self, message: Propose) -> Effects:
        assert self._agreed is not None
        if message.state.version < self._agreed.state.version:
            return ()  # an echo of a proposal whose successor we have signed
        if (message.state, message.final) != (self._agreed.state, self._agreed.final):
            raise ProtocolViolation("VersionTaken", "another state with a version that both have signed", party="peer")
        return (self._cosign(self._agreed),)

    def _cosign(self, signed: Signed) -> Send:
        message = Cosign(version=signed.state.version, signature=signed.signature_b, close_signature=signed.close_b)
        return Send(payload=messages.encode(message))

    def _flush(self) -> Flush:
        received_by_a, received_by_b = self._attested.paid_bytes
        return Flush(sent=received_by_a, received=received_by_b)

    # Both

    def _agree(self, signed: Signed, receipts: tuple[Receipt, ...]) -> Effects:
        self._settle(signed, receipts)
        record = StateRecord(channel=self._link.channel, signed=signed, receipts=receipts)
        received_by_a, received_by_b = self._progress.paid_bytes
        covered = Covered(received_by_a=received_by_a, received_by_b=received_by_b)
        finished = (Finished(signed=signed),) if signed.final else ()
        return Persist(record=record), covered, *finished

    def _settle(self, signed: Signed, receipts: tuple[Receipt, ...]) -> None:
        self._agreed, self._flight = signed, None
        self._progress = self._progress.after(receipts)
        self._attested = Progress(
            directions=tuple(  # type: ignore[arg-type]  # two in, two out
                max(ours, agreed, key=lambda transcript: transcript.sequence)
                for ours, agreed in zip(self._attested.directions, self._progress.directions, strict=True)
            )
        )
        self._waiting = [receipt for receipt in self._waiting if not self._progress.includes(receipt)]

    def _sign(self, state: ChannelState, *, final: bool) -> tuple[bytes, bytes]:
        signature = self._key.sign(state.digest(self._link.domain, self._link.channel))
        return signature, self._key.sign(state.close_digest(self._link.domain, self._link.channel)) if final else b""

    def _verify(self, state: ChannelState, signature: bytes, close: bytes, *, final: bool, by: Party) -> None:
        signer = self._link.a if by is Party.A else self._link.b
        digests = [(state.digest(self._link.domain, self._link.channel), signature)]
        if final:
            digests.append((state.close_digest(self._link.domain, self._link.channel), close))
        if any(recover(digest, given) != signer for digest, given in digests):
            raise ProtocolViolation("BadSignature", "a state that the peer's account did not sign", party="peer")

    def _restore(self, records: Iterable[Record]) -> None:
        for record in records:
            if isinstance(record, ReceiptRecord):
                if record.epoch == self._opening.epoch and not self._attested.includes(record.receipt):
                    self._attested = self._attested.after([record.receipt])
                    self._waiting.append(record.receipt)
            elif record.signed.state.epoch == self._opening.epoch:
                if record.signed.complete:
                    self._settle(record.signed, record.receipts)
                else:
                    self._flight = (record.signed, record.receipts)
