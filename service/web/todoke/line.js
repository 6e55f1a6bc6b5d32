/** One connection to an event stream that comes back: EventSource, and a long poll where no stream gets through. */
import { Refused, ask, isFinal, renewHere } from "./asking.js";

/**
 * Milliseconds. `silence`: after so long without a sign a page that is seen looks whether the line is dead.
 * `opening`: the same before it is open. `tick`: between looks at the clock; a late one tells of a sleep.
 * `backoff`: the longest first pause after a failure, doubled up to sixteen times. `again`: from a failed stream to the
 * next try, while polling serves. `asking`: between a tab's questions whether the tab with the connection lives.
 * @typedef {{ silence: number, opening: number, tick: number, backoff: number, again: number, asking: number }} Timing
 * @typedef {import("../todoke.js").Frame} Frame
 * @typedef {"woken" | "silent" | "closed"} End
 * @typedef {import("./asking.js").Answer} Answer
 */
/** @type {Timing} */
export const TIMING = {
    silence: 45_000,
    opening: 15_000,
    tick: 5_000,
    backoff: 1_000,
    again: 60_000,
    asking: 10_000,
};
const UNNUMBERED = ["reconnect", "job.progress"];
const NUMBERED = ["snapshot", "reset", "job.accepted", "job.started", "job.retrying", "job.succeeded", "job.failed"];
const STREAM_FAILURES_MAX = 3;
const POLL_SECONDS = 25;
const PROBE_SECONDS = 1;
const PAUSE_MAX = 60_000;

/** Whatever is heard goes to `take`; the way on is asked of `cursor`, so a line may begin where another one broke. */
export class Line {
    #url;
    #hooks;
    #renew;
    #timing;
    #streamFailures = 0;
    #streamAt = 0;
    #failures = 0;
    #refusals = 0;
    #isOver = false;
    #heardAt = Infinity;
    #tickedAt = Date.now();
    /** Ends what is being waited for. @type {(why: End) => void} */
    #interrupt = () => {};

    /**
     * @param {URL} url
     * @param {{ renew?: (url: string) => Promise<string | null>, timing: Timing }} options
     * @param {{ cursor: () => string, take: (frame: Frame) => void, say: (state: any) => void }} hooks
     */
    constructor(url, { renew = renewHere, timing }, hooks) {
        this.#url = url;
        this.#renew = renew;
        this.#timing = timing;
        this.#hooks = hooks;
    }

    /**
     * Runs until `signal`. Throws Refused.
     * @param {AbortSignal} signal
     */
    async run(signal) {
        this.#isOver = signal.aborted;
        const wake = () => this.#interrupt("woken");
        const clock = setInterval(() => this.#tick(), this.#timing.tick);
        signal.addEventListener("abort", () => ((this.#isOver = true), this.#interrupt("closed")));
        addEventListener("online", wake, { signal });
        addEventListener("pageshow", (event) => event.persisted && wake(), { signal });
        document.addEventListener("resume", wake, { signal });
        document.addEventListener("visibilitychange", () => this.#tick(), { signal });
        try {
            while (!this.#isOver) {
                const isPolling = this.#streamFailures >= STREAM_FAILURES_MAX && Date.now() < this.#streamAt;
                const end = isPolling ? "polling" : await this.#stream();
                // An EventSource does not say why it has died, nor whether the job is silent or the line.
                if (!this.#isOver && end !== "woken") await this.#poll(end);
            }
        } finally {
            clearInterval(clock);
        }
    }

    /** @returns {Promise<End>} */
    #stream() {
        return new Promise((resolve) => {
            const source = new EventSource(this.#address(this.#hooks.cursor()));
            let isOpen = false;
            this.#heardAt = Date.now() + this.#timing.opening - this.#timing.silence;
            this.#interrupt = (why) => {
                source.close();
                this.#heardAt = Infinity;
                this.#interrupt = () => {};
                resolve(why === "silent" && !isOpen ? "closed" : why);
            };
            source.onopen = () => {
                isOpen = true;
                this.#heardAt = Date.now();
                this.#hooks.say("open");
            };
            source.onerror = () => {
                if (source.readyState === EventSource.CLOSED) this.#interrupt("closed");
                else this.#hooks.say("reconnecting");
            };
            for (const type of [...NUMBERED, ...UNNUMBERED])
                source.addEventListener(type, ({ data, lastEventId }) => {
                    this.#heardAt = Date.now();
                    this.#streamFailures = this.#failures = this.#refusals = 0;
                    this.#hooks.take({ type, id: lastEventId, data });
                });
        });
    }

    /** @param {End | "polling"} end  of the stream before */
    async #poll(end) {
        const isPolling = end === "polling";
        if (end !== "silent") this.#hooks.say(isPolling ? "polling" : "reconnecting");
        const left = Math.ceil((this.#streamAt - Date.now()) / 1000);
        const seconds = isPolling ? Math.min(POLL_SECONDS, Math.max(left, 1)) : PROBE_SECONDS;
        const answer = await this.#ask(seconds, this.#hooks.cursor());
        if (this.#isOver || answer.isWoken) return;
        if (!isPolling) this.#compare(end, answer);
        await this.#judge(answer);
    }

    /**
     * Whether streams are worth while, from what a poll got behind one.
     * @param {End} end
     * @param {Answer} answer
     */
    #compare(end, { isGood, frames }) {
        const hasNews = frames.some(({ type }) => NUMBERED.includes(type));
        if (end === "closed" && isGood) this.#streamFailures += 1;
        // A stream may be quiet; one that kept back what the poll brings stands behind a buffer.
        if (end === "silent") this.#streamFailures = hasNews ? STREAM_FAILURES_MAX : 0;
        this.#streamAt = Date.now() + this.#timing.again;
    }

    /** @param {Answer} answer */
    async #judge({ status, isGood, frames, pause }) {
        if (status === 401 || status === 403) return this.#renewUrl(status);
        if (isFinal(status)) throw new Refused(status);
        for (const frame of frames) this.#hooks.take(frame);
        if (status === 204) await this.#learnEnd();
        if (!isGood) return this.#pause(pause);
        this.#failures = this.#refusals = 0;
    }

    /** The cursor is that of the end, and whoever gave it did not say what the end was. */
    async #learnEnd() {
        const { frames } = await this.#ask(PROBE_SECONDS, before(this.#hooks.cursor()));
        for (const frame of frames) this.#hooks.take(frame);
    }

    /**
     * @param {number} seconds
     * @param {string} cursor
     */
    async #ask(seconds, cursor) {
        const asking = new AbortController();
        let isWoken = false;
        this.#interrupt = () => ((isWoken = true), asking.abort());
        const answer = await ask(this.#address(cursor, seconds), seconds, asking);
        this.#interrupt = () => {};
        return { ...answer, isWoken };
    }

    /** @param {number} status */
    async #renewUrl(status) {
        if (this.#refusals > 1) throw new Refused(status);
        let url;
        try {
            url = await this.#renew(String(this.#url));
        } catch {
            return this.#pause(0);
        }
        if (!url) throw new Refused(status);
        this.#refusals += 1;
        this.#url = new URL(url, this.#url);
    }

    /**
     * After a failure: doubled each time, never the same for two readers, over as soon as there is hope.
     * @param {number} least  milliseconds the service has asked for
     * @returns {Promise<void>}
     */
    #pause(least) {
        const longest = this.#timing.backoff * 2 ** Math.min(this.#failures++, 4);
        const milliseconds = Math.max(least || 0, longest / 2) + (Math.random() * longest) / 2;
        if (this.#isOver) return Promise.resolve();
        return new Promise((resolve) => {
            const timer = setTimeout(() => this.#interrupt("woken"), Math.min(milliseconds, PAUSE_MAX));
            this.#interrupt = () => {
                clearTimeout(timer);
                this.#interrupt = () => {};
                resolve();
            };
        });
    }

    #tick() {
        const now = Date.now();
        const late = now - this.#tickedAt - this.#timing.tick;
        this.#tickedAt = now;
        if (document.visibilityState === "hidden") return; // timers of hidden pages are late by themselves
        if (late > 2 * this.#timing.tick) this.#interrupt("woken");
        else if (now - this.#heardAt > this.#timing.silence) this.#interrupt("silent");
    }

    /**
     * @param {string} cursor
     * @param {number} [wait]  seconds
     */
    #address(cursor, wait) {
        const url = new URL(this.#url);
        if (cursor) url.searchParams.set("lastEventId", cursor);
        if (wait) url.searchParams.set("wait", String(wait));
        return String(url);
    }
}

/** @param {string} cursor */
function before(cursor) {
    return cursor.replace(/\d+$/, (sequence) => String(Number(sequence) - 1));
}
