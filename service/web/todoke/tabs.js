/** Tabs of one origin that watch the same job share one connection: who holds the lock has it and tells the others. */

/** @typedef {import("../todoke.js").Frame} Frame */

// A leader that answers none of so many questions is frozen.
const UNANSWERED_MAX = 2;

/**
 * `lead`: have a connection until the signal. `take`: a leader's frame; false when frames before it are missing.
 * `since`: what another tab at this sequence has to be told. `sequence`: how far this tab is, -1 at the beginning.
 * @typedef {object} Hooks
 * @property {(until: AbortSignal) => Promise<void>} lead
 * @property {(frame: Frame) => boolean} take
 * @property {(sequence: number) => Frame[]} since
 * @property {() => number} sequence
 * @property {(state: any) => void} say
 */

export class Tabs {
    #name;
    #timing;
    #hooks;
    #channel;
    #me = Math.random().toString(36).slice(2);
    #isLeader = false;
    #isLeaderHidden = false;
    #unanswered = 0;
    #heardAt = Date.now();
    #mustSteal = false;
    #turn = new AbortController();

    /** @param {string} name  @param {import("./line.js").Timing} timing  @param {Hooks} hooks */
    constructor(name, timing, hooks) {
        this.#timing = timing;
        this.#name = name;
        this.#hooks = hooks;
        this.#channel = new BroadcastChannel(name);
        this.#channel.onmessage = ({ data }) => this.#hear(data);
    }

    /**
     * Follow, lead when nobody else does, until `signal`. Throws what leading throws.
     * @param {AbortSignal} signal
     */
    async run(signal) {
        const look = () => this.#look();
        const clock = setInterval(look, this.#timing.asking);
        document.addEventListener("visibilitychange", look, { signal });
        signal.addEventListener("abort", () => this.#turn.abort());
        try {
            while (!signal.aborted) await this.#takeTurn();
        } finally {
            clearInterval(clock);
            this.#channel.close();
        }
    }

    /** @param {Frame} frame  of the connection this tab has */
    tell(frame) {
        if (this.#isLeader) this.#channel.postMessage({ frame });
    }

    async #takeTurn() {
        const turn = (this.#turn = new AbortController());
        const options = this.#mustSteal ? { steal: true } : { signal: turn.signal };
        this.#mustSteal = false;
        this.#unanswered = 0;
        this.#heardAt = Date.now();
        this.#ask();
        try {
            await navigator.locks.request(this.#name, options, async () => {
                this.#isLeader = true;
                await this.#hooks.lead(turn.signal);
            });
        } catch (error) {
            // Another tab has stolen the lock, or this one is about to, or is done.
            if (!(error instanceof DOMException && error.name === "AbortError")) throw error;
        } finally {
            this.#isLeader = false;
            turn.abort();
        }
    }

    #ask() {
        this.#unanswered += 1;
        this.#channel.postMessage({ from: this.#me, sequence: this.#hooks.sequence() });
    }

    /** @param {any} message */
    #hear({ from, sequence, to, frames, isHidden, frame }) {
        if (from && this.#isLeader) {
            const answer = { to: from, frames: this.#hooks.since(sequence), isHidden: document.hidden };
            this.#channel.postMessage(answer);
        } else if (!this.#isLeader && (to === this.#me || frame)) {
            this.#unanswered = 0;
            if (to) this.#isLeaderHidden = isHidden;
            if (frame) this.#heardAt = Date.now();
            this.#hooks.say("following");
            for (const item of frame ? [frame] : frames) if (!this.#hooks.take(item)) this.#ask();
        }
    }

    /** Whether the leader still is one. */
    #look() {
        if (this.#isLeader || document.hidden) return;
        // A hidden leader's clock is too slow to notice that its line is dead.
        const isMute = this.#unanswered > UNANSWERED_MAX;
        const isBlind = this.#isLeaderHidden && Date.now() - this.#heardAt > this.#timing.silence;
        if (isMute || isBlind) {
            this.#mustSteal = true;
            this.#turn.abort();
        } else this.#ask();
    }
}
