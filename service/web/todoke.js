/**
 * Watch a job from a page: every event once, in order, whatever happens to the line.
 *
 *     import { watch } from "/todoke.js";
 *     const job = await watch(jobId, { onEvent: (event) => show(event.data) }).done;
 */
import { Refused } from "./todoke/asking.js";
import { Line, TIMING } from "./todoke/line.js";
import { Tabs } from "./todoke/tabs.js";

export { Refused };

/**
 * @typedef {{ type: string, timestamp: string, reason?: string, data: { jobId: string, sequence: number } & Record<string, any> }} JobEvent
 * @typedef {{ type: string, id: string, data: string }} Frame  as sent; `id` is the cursor behind it
 * @typedef {"connecting" | "open" | "reconnecting" | "polling" | "following" | "ended" | "failed"} State
 * @typedef {object} Options
 * @property {(event: MessageEvent<JobEvent>) => void} [onEvent]  called for every event; `event.data` is parsed
 * @property {(state: State) => void} [onState]
 * @property {string} [lastEventId]  where to go on, or "earliest"; without it the first event is `snapshot`
 * @property {boolean} [share]  false: a connection of its own, whatever other tabs do
 * @property {(url: string) => Promise<string | null>} [renew]  a new events URL when the old one is refused; null: there
 *   is none to be had. Default: POST /jobs/{id}/tokens, when the page is of the same origin
 * @property {string} [base]  what `target` is relative to; default: where this module came from
 * @property {Partial<import("./todoke/line.js").Timing>} [timing]
 */

const PICTURES = ["snapshot", "reset"];
const FINAL = ["job.succeeded", "job.failed"];
const EVENTS = [...PICTURES, "job.accepted", "job.started", "job.retrying", "job.progress", ...FINAL];
const FRAMES_MAX = 100;

/**
 * @param {string | URL} target  a job id, or the `eventsUrl` of a submit
 * @param {Options} [options]
 */
export function watch(target, options = {}) {
    return new Watch(target, options);
}

/** Dispatches a MessageEvent for every event of the job, and `state`. Iterate it, listen to it, or await `done`. */
export class Watch extends EventTarget {
    /** @type {State} */
    state = "connecting";
    #epoch = "";
    #sequence = -1;
    #start;
    #progress = "";
    #latest = "";
    /** @type {Frame[]} */
    #frames = [];
    #stop = new AbortController();
    /** @type {Record<string, any> | null} */
    #final = null;

    /** @param {string | URL} target @param {Options} options */
    constructor(target, options) {
        super();
        const { onEvent, onState, lastEventId = "" } = options;
        if (onEvent) for (const type of EVENTS) this.addEventListener(type, /** @type {EventListener} */ (onEvent));
        if (onState) this.addEventListener("state", () => onState(this.state));
        this.#start = lastEventId;
        const cursor = /^(.+)\.(\d+)$/.exec(lastEventId);
        if (cursor) [this.#epoch, this.#sequence] = [cursor[1], Number(cursor[2])];
        /**
         * The job as its last event tells it; null when `close` came first. Rejects with Refused when the right to
         * watch has ended or there is no such job.
         * @type {Promise<Record<string, any> | null>}
         */
        this.done = this.#run(eventsUrl(target, options.base), options);
        this.done.catch(() => {}); // who does not ask need not hear of it as an unhandled rejection
    }

    /** The cursor behind the last event; give it as `lastEventId` to go on from here. */
    get lastEventId() {
        return this.#sequence < 0 ? this.#start : `${this.#epoch}.${this.#sequence}`;
    }

    /** Stop watching. */
    close() {
        this.#stop.abort();
    }

    /** @returns {AsyncGenerator<MessageEvent<JobEvent>>} */
    async *[Symbol.asyncIterator]() {
        /** @type {any[]} */
        const queue = [];
        let isOver = false;
        let wake = () => {};
        const listening = new AbortController();
        const put = (/** @type {Event} */ event) => (queue.push(event), wake());
        for (const type of EVENTS) this.addEventListener(type, put, { signal: listening.signal });
        const end = () => ((isOver = true), wake());
        this.done.then(end, end);
        try {
            while (queue.length || !isOver) {
                if (queue.length) yield queue.shift();
                else await new Promise((resolve) => (wake = () => resolve(null)));
            }
            await this.done;
        } finally {
            listening.abort();
        }
    }

    /** @param {URL} url @param {Options} options */
    async #run(url, options) {
        await null; // nothing is told before whoever called can listen
        const { signal } = this.#stop;
        const timing = { ...TIMING, ...options.timing };
        const line = (/** @type {AbortSignal} */ until, /** @type {(frame: Frame) => void} */ take) =>
            new Line(url, { renew: options.renew, timing }, {
                cursor: () => this.lastEventId,
                take,
                say: (state) => this.#say(state),
            }).run(until);
        try {
            const isAlone = options.share === false || this.#start || !navigator.locks || !globalThis.BroadcastChannel;
            if (isAlone) await line(signal, (frame) => this.#take(frame));
            else {
                const tabs = new Tabs(`todoke ${url.origin}${url.pathname}`, timing, {
                    lead: (until) => line(until, (frame) => (tabs.tell(frame), this.#take(frame))),
                    take: (frame) => this.#take(frame, true),
                    since: (sequence) => this.#since(sequence),
                    sequence: () => this.#sequence,
                    say: (state) => this.#say(state),
                });
                await tabs.run(signal);
            }
            this.#say("ended");
            return this.#final;
        } catch (error) {
            this.#say("failed");
            throw error;
        }
    }

    /**
     * Dispatch what is new, once and in order.
     * @param {Frame} frame
     * @param {boolean} [mayMiss]  it came through another tab
     * @returns {boolean}  false: frames before it are missing
     */
    #take({ type, id, data }, mayMiss = false) {
        if (this.#final || this.#stop.signal.aborted || !EVENTS.includes(type)) return true;
        /** @type {JobEvent} */
        const event = JSON.parse(data);
        if (type === "job.progress") {
            if (data === this.#progress || this.#sequence < 0 || event.data.sequence < this.#sequence) return true;
            if (event.data.sequence > this.#sequence) return false;
            this.#progress = data;
        } else {
            const dot = id.lastIndexOf(".");
            const [epoch, sequence] = [id.slice(0, dot), Number(id.slice(dot + 1))];
            const known = epoch === this.#epoch ? this.#sequence : -1;
            if (type !== "reset" && sequence <= known) {
                if (FINAL.includes(type)) this.#end(event.data);
                return true;
            }
            if (mayMiss && !PICTURES.includes(type) && sequence !== known + 1) return false;
            this.#note(type, epoch, sequence, event);
            if (!PICTURES.includes(type)) this.#frames = [...this.#frames, { type, id, data }].slice(-FRAMES_MAX);
        }
        this.#latest = data;
        this.dispatchEvent(new MessageEvent(type, { data: event, lastEventId: this.lastEventId }));
        if (FINAL.includes(type)) this.#end(event.data);
        return true;
    }

    /** @param {string} type @param {string} epoch @param {number} sequence @param {JobEvent} event */
    #note(type, epoch, sequence, event) {
        // Behind the picture of an ended job its last event still comes.
        const isEndToCome = PICTURES.includes(type) && event.data.status !== "running";
        this.#epoch = epoch;
        this.#sequence = isEndToCome ? event.data.sequence - 1 : sequence;
        if (PICTURES.includes(type)) this.#frames = [];
    }

    /** @param {Record<string, any>} job */
    #end(job) {
        this.#final = job;
        this.#stop.abort();
    }

    /**
     * What a tab that has reached `sequence` (-1: nothing yet) has to be told.
     * @param {number} sequence
     * @returns {Frame[]}
     */
    #since(sequence) {
        if (!this.#latest || sequence >= this.#sequence) return [];
        const missing = this.#frames.slice(-(this.#sequence - sequence));
        if (sequence >= 0 && missing.length === this.#sequence - sequence) return missing;
        const type = sequence < 0 ? "snapshot" : "reset";
        const reason = sequence < 0 ? undefined : "gap";
        return [{ type, id: this.lastEventId, data: JSON.stringify({ ...JSON.parse(this.#latest), type, reason }) }];
    }

    /** @param {State} state */
    #say(state) {
        if (state === this.state) return;
        this.state = state;
        this.dispatchEvent(new Event("state"));
    }
}

/** @param {string | URL} target @param {string} [base] */
function eventsUrl(target, base = import.meta.url) {
    const path = String(target);
    return new URL(path.includes("/") ? path : `jobs/${encodeURIComponent(path)}/events`, new URL(base, location.href));
}
