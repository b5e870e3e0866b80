// Sending one file: resumable (tus) where the server takes that.
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
  if (!answer) return new Error("The connection was lost during the upload. Try again: the upload goes on where it stopped.");
  let problem = {};
  try { problem = JSON.parse(answer.getBody()); } catch { /* a proxy's page: the status has to do */ }
  return refused(answer.getStatus(), problem);
}

// Whether the server takes resumable uploads.
let resumable = null;
export const canResume = () => resumable ||= fetch("/uploads", {method: "OPTIONS"}).then(answer => answer.headers.has("Tus-Resumable"), () => (resumable = null));

// Send a file and its options in one request. Returns {done: promise of the job, stop()}.
export function sendWhole(file, name, options, id, {onprogress}) {
  const request = new XMLHttpRequest(), data = form(options);
  data.append("file", file, name);
  const done = new Promise((resolve, reject) => {
    request.upload.onprogress = event => onprogress(event.loaded, event.total);
    request.onload = () => {
      let body = {};
      try { body = JSON.parse(request.responseText); } catch { /* a proxy's page: the status has to do */ }
      if (request.status === 202) resolve(body); else reject(refused(request.status, body));
    };
    request.onerror = () => reject(new Error("The connection was lost during the upload."));
    request.onabort = () => reject(new DOMException("stopped", "AbortError"));
  });
  request.open("POST", "/upscale");
  for (const [name, value] of Object.entries({...headers(), "Idempotency-Key": id})) request.setRequestHeader(name, value);
  request.send(data);
  return {done, stop: () => request.abort()};
}

// Make a job of a complete upload. The same `id` never makes a second job.
export const submit = (upload, options, id) =>
  ask("/upscale", {method: "POST", body: form({...options, upload}), headers: {"Idempotency-Key": id}});

// Forget what the server has of an upload.
export const forget = url => fetch(url, {method: "DELETE", headers: {...headers(), "Tus-Resumable": "1.0.0"}}).catch(() => {});
