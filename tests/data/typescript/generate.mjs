// Writes api.ts from openapi.json; a file is a Blob: https://openapi-ts.dev/node#example-blob-types
import { readFile, writeFile } from "node:fs/promises";
import openapi, { astToString } from "openapi-typescript";
import ts from "typescript";

const blob = ts.factory.createTypeReferenceNode("Blob");
const tree = await openapi(await readFile("openapi.json", "utf-8"), {
  transform: (schema) => (schema.format === "binary" ? blob : undefined),
});
await writeFile("api.ts", astToString(tree));
