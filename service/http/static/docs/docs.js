// Renders /openapi.json with Swagger UI. Loads nothing from other hosts, so the page works offline.
"use strict";

const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

// Swagger UI puts a link into each operation's button; screen readers cannot reach it. Opening an operation sets the address too.
const plainNames = () => ({
  wrapComponents: {DeepLink: (_, {React}) => ({text}) => React.createElement("span", {className: "nostyle"}, text)},
});

// Swagger UI leaves fields without names, and code that scrolls without focus.
function name() {
  for (const field of document.querySelectorAll("#content :is(select, input, textarea):not([aria-label])")) {
    if ([...field.labels].some(label => label.textContent !== field.textContent)) continue;
    const row = field.closest("[data-property-name], [data-param-name]");
    field.setAttribute("aria-label", row?.dataset.propertyName || row?.dataset.paramName || field.placeholder || (field.id === "servers" ? "Server" : "Content type"));
  }
  for (const code of document.querySelectorAll("#content pre:not([tabindex])")) code.tabIndex = 0;
}
new MutationObserver(name).observe(document.getElementById("content"), {childList: true, subtree: true});

SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#content",
  deepLinking: true,
  displayRequestDuration: true,
  filter: true,
  plugins: [plainNames],
  syntaxHighlight: false,  // its colours lack contrast
  validatorUrl: null,      // the default validator is another host
  requestInterceptor: request => {
    const key = sessionStorage.getItem("skipvsr_key");  // the web interface's key, in the same tab
    if (key && !request.headers["X-API-Key"] && !request.headers.Authorization)
      request.headers["X-API-Key"] = String.fromCharCode(...new TextEncoder().encode(key));
    return request;
  },
});
