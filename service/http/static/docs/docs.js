// Renders /openapi.json with Swagger UI. Loads nothing from other hosts, so the page works offline.
"use strict";

const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#content",
  deepLinking: true,
  displayRequestDuration: true,
  filter: true,
  validatorUrl: null,  // the default validator is another host
  requestInterceptor: request => {
    const key = sessionStorage.getItem("skipvsr_key");  // the web interface's key, in the same tab
    if (key && !request.headers["X-API-Key"] && !request.headers.Authorization)
      request.headers["X-API-Key"] = String.fromCharCode(...new TextEncoder().encode(key));
    return request;
  },
});
