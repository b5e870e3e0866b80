// Runs one job with the types that openapi-typescript makes: node job.js ADDRESS VIDEO RESULT
import { readFile, writeFile } from "node:fs/promises";
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

type Job = components["schemas"]["JobDocument"];

const [address, video, result] = process.argv.slice(2);
const client = createClient<paths>({ baseUrl: address });

function check<T>(answer: { data?: T; error?: components["schemas"]["Problem"] }): T {
  if (answer.data === undefined) throw new Error(answer.error?.detail ?? "no answer");
  return answer.data;
}

async function submit(): Promise<Job> {
  const form = { file: new File([await readFile(video)], "clip.mp4"), scale: 2, model: "tiny" } as const;
  return check(
    await client.POST("/upscale", {
      body: form,
      bodySerializer: (fields) => {
        const body = new FormData();
        for (const [name, value] of Object.entries(fields)) body.set(name, value instanceof Blob ? value : String(value));
        return body;
      },
    }),
  );
}

let job = await submit();
while (!["done", "failed", "cancelled"].includes(job.state)) {
  await new Promise((resume) => setTimeout(resume, 100));
  job = check(await client.GET("/jobs/{job_id}", { params: { path: { job_id: job.id } } }));
}
if (job.state !== "done") throw new Error(job.error?.detail ?? job.state);
const file = check(
  await client.GET("/jobs/{job_id}/result", { params: { path: { job_id: job.id } }, parseAs: "blob" }),
);
await writeFile(result, Buffer.from(await (file as Blob).arrayBuffer()));
const missing = await client.GET("/jobs/{job_id}", { params: { path: { job_id: "0" } } });
console.log(JSON.stringify({ id: job.id, frames: job.progress.frames_done, missing: missing.error?.status }));
