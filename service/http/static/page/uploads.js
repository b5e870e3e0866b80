// Sending one file by tus: an interrupted upload goes on where it stopped.
import {ask, form, headers, refused} from "./api.js";

const PART = 32 << 20;  // bytes of one request: what a proxy must let through, and the most that a lost connection costs
const RETRIES = [0, 1000, 3000, 5000, 10000, 20000];
const FINAL = [401, 403, 413, 415, 422, 507];  // trying again changes nothing

// Send a file, from where an earlier try at `url` ended. Returns {done: promise of the upload's id, stop()}.
export function send(file, name, url, {onurl, onprogress}) {
  let upload, reject;
  const done = new Promise((resolve, refuse) => {
    reject = refuse;
    upload = new tus.Upload(file, {
      endpoint: "/uploads",
      uploadUrl: url || null,
      chunkSize: PART,
      retryDelays: RETRIES,
      metadata: {filename: name},
      headers: headers(),
      storeFingerprintForResuming: false,  // queue.js remembers each upload with its options
      onShouldRetry: error => !FINAL.includes(error.originalResponse?.getStatus()),
      onUploadUrlAvailable: () => onurl(upload.url),
      onProgress: onprogress,
      onError: error => refuse(refusal(error)),
      onSuccess: () => resolve(upload.url.split("/").pop()),
    });
    upload.start();
  });
  return {done, stop: () => { upload.abort(); reject(new DOMException("stopped", "AbortError")); }};
}

// The server's problem document behind an error of tus-js-client.
function refusal(error) {
  const answer = error.originalResponse;
  if (!answer) return new Error("The connection was lost. Try again: only the rest is sent.");
  let problem = {};
  try { problem = JSON.parse(answer.getBody()); } catch { /* a proxy's page: the status has to do */ }
  return refused(answer.getStatus(), problem);
}

// Make a job of a complete upload. The same `id` never makes a second job.
export const submit = (upload, options, id) =>
  ask("/upscale", {method: "POST", body: form({...options, upload}), headers: {"Idempotency-Key": id}});

// Forget what the server has of an upload.
export const forget = url => fetch(url, {method: "DELETE", headers: {...headers(), "Tus-Resumable": "1.0.0"}}).catch(() => {});
