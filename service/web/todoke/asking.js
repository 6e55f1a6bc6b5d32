/** One question at a time, by fetch: the long poll, and what an EventSource does not tell. */

/**
 * What `status` means beyond its number: `isGood`: it was waited for, and `frames` are what came. `pause`: milliseconds
 * the service asks for before the next question.
 * @typedef {{ status: number, isGood: boolean, frames: Frame[], pause: number }} Answer
 * @typedef {import("../todoke.js").Frame} Frame
 */
const STREAM = "text/event-stream";
const GRACE_SECONDS = 15;
// Too early or too often, not wrong.
const PASSING = [408, 425, 429];

/** The service will not show this job: the right to see it has ended, or there is no such job. */
export class Refused extends Error {
    /** @param {number} status  of HTTP */
    constructor(status) {
        super(status === 404 ? "job not found" : `the events of the job are refused (${status})`);
        this.name = "Refused";
        this.status = status;
    }
}

/**
 * Waits `seconds` for the next news. Status 0: nobody has answered.
 * @param {string} url
 * @param {number} seconds
 * @param {AbortController} asking
 * @returns {Promise<Answer>}
 */
export async function ask(url, seconds, asking) {
    const askedAt = Date.now();
    const timer = setTimeout(() => asking.abort(), (seconds + GRACE_SECONDS) * 1000);
    try {
        const answer = await fetch(url, { headers: { Accept: STREAM }, cache: "no-store", signal: asking.signal });
        const isStream = answer.status === 200 && !!answer.headers.get("content-type")?.startsWith(STREAM);
        const { frames, retry } = parse(isStream ? await answer.text() : "");
        const isAway = frames.length ? frames.at(-1)?.type === "reconnect" : Date.now() - askedAt < seconds * 900;
        const pause = isStream ? retry : Number(answer.headers.get("retry-after")) * 1000;
        return { status: answer.status, isGood: isStream && !isAway, frames, pause };
    } catch {
        return { status: 0, isGood: false, frames: [], pause: 0 };
    } finally {
        clearTimeout(timer);
    }
}

/** @param {number} status  whether asking again can only bring the same */
export function isFinal(status) {
    return status >= 400 && status < 500 && !PASSING.includes(status);
}

/**
 * A whole answer in frames, by the rules of an EventSource.
 * @param {string} text
 */
function parse(text) {
    /** @type {Frame[]} */
    const frames = [];
    let [id, retry] = ["", 0];
    for (const block of text.split(/\r\n\r\n|\n\n|\r\r/).slice(0, -1)) {
        let type = "message";
        const data = [];
        for (const line of block.split(/\r\n|\n|\r/)) {
            const [, name, value] = /** @type {RegExpExecArray} */ (/^([^:]*):? ?(.*)$/s.exec(line));
            if (name === "event") type = value;
            else if (name === "data") data.push(value);
            else if (name === "id") id = value;
            else if (name === "retry") retry = Number(value);
        }
        if (data.length) frames.push({ type, id, data: data.join("\n") });
    }
    return { frames, retry };
}

/**
 * A new ticket by whatever the page's own cookies allow.
 * @param {string} url
 * @returns {Promise<string | null>}
 */
export async function renewHere(url) {
    const { origin, pathname } = new URL(url);
    if (origin !== location.origin) return null;
    const answer = await fetch(pathname.replace(/events$/, "tokens"), { method: "POST" });
    if (answer.ok) return (await answer.json()).eventsUrl;
    if (isFinal(answer.status)) return null;
    throw new Error("no new ticket for now");
}
