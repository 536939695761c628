// The AI SDK: text, a stream, a typed answer, embeddings, and a provider that is only compatible.
import assert from "node:assert/strict";

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const openai = createOpenAI(); // it knows the address and the key from its environment
const own = createOpenAICompatible({
  name: "tollway",
  baseURL: process.env.OPENAI_BASE_URL,
  apiKey: process.env.OPENAI_API_KEY,
});
const prompt = "Tell me about ships.";

const whole = await generateText({ model: openai.chat("gpt-4o"), prompt });
assert(whole.text);
assert(whole.usage.outputTokens > 0);

let text = "";
for await (const part of streamText({ model: openai.chat("gpt-4o"), prompt }).textStream) text += part;
assert.equal(text, whole.text);

const typed = await generateText({
  model: openai.chat("gpt-4o"),
  prompt: "Describe a book.",
  output: Output.object({ schema: z.object({ title: z.string(), pages: z.number().int() }) }),
});
assert(typed.output.title);

const called = await generateText({
  model: own.chatModel("auto"),
  prompt: "What is the weather in Kyoto?",
  stopWhen: stepCountIs(1),
  tools: {
    get_weather: tool({
      description: "Weather of a city.",
      inputSchema: z.object({ city: z.string() }),
      execute: async ({ city }) => `It rains in ${city}.`,
    }),
  },
});
assert.equal(called.toolCalls[0].toolName, "get_weather");

const { embeddings } = await embedMany({
  model: openai.embedding("text-embedding-3-small"),
  values: ["one", "two"],
});
assert.deepEqual(embeddings.map((vector) => vector.length), [1536, 1536]);

console.log(JSON.stringify({ answers: 5 }));
