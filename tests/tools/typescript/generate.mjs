// Writes the API's types for TypeScript: node generate.mjs openapi.json api.d.ts
import fs from 'node:fs'
import { pathToFileURL } from 'node:url'
import openapiTS, { astToString } from 'openapi-typescript'
import ts from 'typescript'

const [document, output] = process.argv.slice(2)
const blob = ts.factory.createTypeReferenceNode('Blob')
const types = await openapiTS(pathToFileURL(document), {
  // What is binary would be a string otherwise.
  transform: (schema) => (schema.format === 'binary' ? blob : undefined),
})
fs.writeFileSync(output, astToString(types))
