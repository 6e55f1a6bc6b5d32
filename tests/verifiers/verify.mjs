// Verifies webhooks as receivers in JavaScript do. Cases on stdin, as JSON: [{secret, headers, body (base64), now (Unix
// seconds), jwk?}]; on stdout, for each: {standardwebhooks, svix, ed25519?}, of which every one is "ok" or the name of what was thrown.

import { createPublicKey, verify } from "node:crypto";
import { createRequire } from "node:module";
import { text } from "node:stream/consumers";

// Both packages as CommonJS: what `import` finds in them depends on their version.
const require = createRequire(import.meta.url);
const libraries = { standardwebhooks: require("standardwebhooks"), svix: require("svix") };

function verdict(check) {
  try {
    check();
    return "ok";
  } catch (error) {
    return error.name;
  }
}

// No library of the two knows v1a; this is what its specification says, in the words of Node alone.
function verifyEd25519({ headers, jwk }, body) {
  const key = createPublicKey({ key: jwk, format: "jwk" });
  const content = Buffer.concat([
    Buffer.from(`${headers["webhook-id"]}.${headers["webhook-timestamp"]}.`),
    body,
  ]);
  const held = headers["webhook-signature"]
    .split(" ")
    .filter((entry) => entry.startsWith("v1a,"))
    .some((entry) => verify(null, content, key, Buffer.from(entry.slice(4), "base64")));
  if (!held) throw new Error("no v1a signature matches");
}

const cases = JSON.parse(await text(process.stdin));
const verdicts = cases.map((one) => {
  const body = Buffer.from(one.body, "base64");
  const answer = {};
  Date.now = () => one.now * 1000;
  for (const [name, { Webhook }] of Object.entries(libraries)) {
    answer[name] = verdict(() => new Webhook(one.secret).verify(body, one.headers));
  }
  if (one.jwk) answer.ed25519 = verdict(() => verifyEd25519(one, body));
  return answer;
});
process.stdout.write(JSON.stringify(verdicts));
