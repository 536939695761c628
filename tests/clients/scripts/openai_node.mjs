// The official client for Node: whole answers, a stream, a structured answer, embeddings, errors, Azure.
import assert from "node:assert/strict";

import OpenAI, { AzureOpenAI, NotFoundError } from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const messages = [{ role: "user", content: "Tell me about ships." }];
const client = new OpenAI();

const models = [];
for await (const model of client.models.list()) models.push(model.id);
assert(models.includes("gpt-4o"));

const whole = await client.chat.completions.create({ model: "gpt-4o", messages });
assert(whole.choices[0].message.content);

let text = "";
for await (const chunk of await client.chat.completions.create({ model: "gpt-4o", messages, stream: true }))
  text += chunk.choices[0].delta.content ?? "";
assert.equal(text, whole.choices[0].message.content);

const final = await client.chat.completions
  .stream({ model: "auto", messages, stream_options: { include_usage: true } })
  .finalChatCompletion();
assert(final.usage.completion_tokens > 0);

const book = await client.chat.completions.parse({
  model: "gpt-4o",
  messages,
  response_format: zodResponseFormat(z.object({ title: z.string(), pages: z.number().int() }), "book"),
});
assert(book.choices[0].message.parsed.title);

const embedded = await client.embeddings.create({ model: "text-embedding-3-small", input: ["one", "two"] });
assert.deepEqual(embedded.data.map((item) => item.embedding.length), [1536, 1536]);

await assert.rejects(client.chat.completions.create({ model: "gpt-4", messages }), (error) => {
  assert(error instanceof NotFoundError);
  return error.code === "model_not_found" && error.message.includes("gpt-4o");
});

const azure = await new AzureOpenAI({ deployment: "gpt-4o" }).chat.completions.create({ model: "", messages });
assert(azure.choices[0].message.content);

console.log(JSON.stringify({ answers: 6 }));
